/* Test side, rogue payload: reports success without a word about the options. */
#include "../rogue.h"

void operation_start(void)
{
    struct AmendResult result = honest_result(1);
    write_toggle();
    calls->send_frame(FRAME_RESULT, &result, sizeof(result), true);
}
