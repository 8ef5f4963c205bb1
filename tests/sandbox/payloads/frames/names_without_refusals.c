/* Test side, rogue payload: names bitmaps and refuses nothing. */
#include "../rogue.h"

void operation_start(void)
{
    write_toggle();
    calls->send_frame(FRAME_NAMES, "\3\0one", 5, false);
    send_result(honest_result(1));
}
