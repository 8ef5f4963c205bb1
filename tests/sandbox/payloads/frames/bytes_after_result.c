/* Test side, rogue payload: sends another frame behind its result, in one buffer. */
#include "../rogue.h"

void operation_start(void)
{
    struct AmendResult result = honest_result(1);
    struct AmendProgress progress = {1, 2};
    write_toggle();
    calls->send_frame(FRAME_RESULT, &result, sizeof(result), false);
    calls->send_frame(FRAME_PROGRESS, &progress, sizeof(progress), true);
}
