/* Test side, rogue payload: sends its result twice, in one buffer. */
#include "../rogue.h"

void operation_start(void)
{
    struct AmendResult result = honest_result(1);
    write_toggle();
    calls->send_frame(FRAME_RESULT, &result, sizeof(result), false);
    send_result(result);
}
