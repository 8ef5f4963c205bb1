/* Test side, rogue payload: reports options that are not those of its result. */
#include "../rogue.h"

void operation_start(void)
{
    struct AmendResult result = honest_result(1), lie = result;
    lie.resulting_version = 2;
    write_toggle();
    send_options(&lie);
    calls->send_frame(FRAME_RESULT, &result, sizeof(result), true);
}
