/* Test side, rogue payload: sends a frame that is too large for the executor. */
#include "../rogue.h"

void operation_start(void)
{
    calls->send_frame(FRAME_PROGRESS, calls->workspace, FRAME_PAYLOAD_MAX + 1, true);
}
