/* Test side, rogue payload: sends its options in two frames. */
#include "../rogue.h"

void operation_start(void)
{
    struct AmendResult result = honest_result(1);
    write_toggle();
    send_options(&result);
    send_options(&result);
    calls->send_frame(FRAME_RESULT, &result, sizeof(result), true);
}
