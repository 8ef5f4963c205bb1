/* Test side, rogue payload: refuses for as many reasons as it may, with the largest numbers that there are. */
#include "told.h"

void operation_start(void)
{
    struct AmendRefusal refusals[REFUSAL_MAX];
    for (uint32_t i = 0; i < REFUSAL_MAX; i++) /* those from 70 on have gaps */
        refusals[i] = (struct AmendRefusal){i < 48 ? i + 1 : 50, AMEND_ERROR_DIRTY, {ONES, ONES, ONES}};
    tell(FRAME_REFUSALS, refusals, sizeof(refusals));
    end_info((struct InfoResult){.refusal_count = REFUSAL_MAX});
}
