/* Test side, rogue payload: has the executor read address 0. */
#include "../rogue.h"

void operation_start(void)
{
    calls->send_frame(FRAME_RESULT, (const void *)0, 64, true);
}
