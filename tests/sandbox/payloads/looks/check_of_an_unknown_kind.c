/* Test side, rogue payload: finds what is nothing. */
#include "told.h"

void operation_start(void)
{
    const struct CheckFinding finding = {CHECK_KIND_MAX + 1, 0, {0, 0, 0}};
    tell(FRAME_CHECK_FINDINGS, &finding, sizeof(finding));
}
