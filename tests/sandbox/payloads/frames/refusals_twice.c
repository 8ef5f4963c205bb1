/* Test side, rogue payload: sends its refusals twice. */
#include "../rogue.h"

void operation_start(void)
{
    struct AmendRefusal refusals[2] = {{REFUSAL_DIRTY, AMEND_ERROR_DIRTY, {0}},
                                       {REFUSAL_CORRUPT, AMEND_ERROR_DIRTY, {0}}};
    struct AmendResult result = honest_result(1);
    result.error = AMEND_ERROR_DIRTY;
    result.refusal_count = 2;
    calls->send_frame(FRAME_REFUSALS, refusals, 32, false);
    calls->send_frame(FRAME_REFUSALS, refusals, 32, false);
    send_result(result);
}
