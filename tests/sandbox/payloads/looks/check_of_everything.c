/* Test side, rogue payload: finds all that there is to be found, with the largest numbers that there are. */
#include "told.h"

void operation_start(void)
{
    struct CheckFinding findings[CHECK_OVERLAP];
    for (uint32_t i = 0; i < CHECK_OVERLAP; i++)
        findings[i] = (struct CheckFinding){i + 1, 0, {ONES, ONES, ONES}};
    tell(FRAME_CHECK_FINDINGS, findings, sizeof(findings));
    end_check((struct CheckResult){
        .check_errors = 1,
        .corruptions = ONES,
        .leaks = 1,
        .overlaps = 1,
        .findings_told = CHECK_OVERLAP,
    });
}
