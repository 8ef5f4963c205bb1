/* Test side, rogue payload: sends a result that is too short. */
#include "../rogue.h"

void operation_start(void)
{
    struct AmendResult result = honest_result(1);
    write_toggle();
    calls->send_frame(FRAME_RESULT, &result, sizeof(result) - 1, true);
}
