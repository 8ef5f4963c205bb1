/* Test side, rogue payload: sends a frame of a type that does not exist. */
#include "../rogue.h"

void operation_start(void)
{
    calls->send_frame(99, calls->workspace, 5, true);
}
