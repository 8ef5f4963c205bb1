/* Test side, rogue payload: sends a frame of 4 GiB. */
#include "../rogue.h"

void operation_start(void)
{
    struct FrameHeader header = {FRAME_MAGIC, FRAME_RESULT, 0xffffffff, 0};
    transmit(&header, sizeof(header));
}
