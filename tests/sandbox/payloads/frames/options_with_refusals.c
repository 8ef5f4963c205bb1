/* Test side, rogue payload: sends options and refuses. */
#include "../rogue.h"

void operation_start(void)
{
    struct AmendResult result = honest_result(1);
    struct AmendRefusal refusals[1] = {{.reason = REFUSAL_DIRTY, .error = AMEND_ERROR_DIRTY}};
    write_toggle();
    send_options(&result);
    calls->send_frame(FRAME_REFUSALS, refusals, sizeof(refusals), false);
    result.error = AMEND_ERROR_DIRTY;
    result.refusal_count = 1;
    calls->send_frame(FRAME_RESULT, &result, sizeof(result), true);
}
