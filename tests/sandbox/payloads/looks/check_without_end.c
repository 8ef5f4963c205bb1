/* Test side, rogue payload: finds something new again and again. */
#include "told.h"

void operation_start(void)
{
    const struct CheckFinding finding = {CHECK_CLUSTER_LEAKED, 0, {1, 1, 0}};
    for (;;)
        tell(FRAME_CHECK_FINDINGS, &finding, sizeof(finding));
}
