/* Test side, rogue payload: refuses with an error that does not exist. */
#include "../rogue.h"

void operation_start(void)
{
    struct AmendRefusal refusals[2] = {{REFUSAL_DIRTY, AMEND_ERROR_DIRTY, {0}},
                                       {REFUSAL_CORRUPT, AMEND_ERROR_DIRTY, {0}}};
    struct AmendResult result = honest_result(1);
    result.error = AMEND_ERROR_DIRTY;
    result.refusal_count = 2;
    refusals[1].error = 0;
    calls->send_frame(FRAME_REFUSALS, refusals, sizeof(refusals), false);
    send_result(result);
}
