/* Test side, rogue payload: tells leaks, and counts none. */
#include "told.h"

void operation_start(void)
{
    const struct CheckFinding finding = {CHECK_CLUSTER_LEAKED, 0, {1, 1, 0}};
    tell(FRAME_CHECK_FINDINGS, &finding, sizeof(finding));
    end_check((struct CheckResult){.corruptions = 1, .findings_told = 1});
}
