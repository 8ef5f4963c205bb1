/* Test side, rogue payload: refuses, and reports no error. */
#include "../rogue.h"

void operation_start(void)
{
    struct AmendRefusal refusals[2] = {{REFUSAL_DIRTY, AMEND_ERROR_DIRTY, {0}},
                                       {REFUSAL_CORRUPT, AMEND_ERROR_DIRTY, {0}}};
    struct AmendResult result = honest_result(1);
    result.error = AMEND_ERROR_DIRTY;
    result.refusal_count = 2;
    result.error = AMEND_OK;
    write_toggle();
    calls->send_frame(FRAME_REFUSALS, refusals, sizeof(refusals), false);
    send_result(result);
}
