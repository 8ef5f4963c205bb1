/* Test side, rogue payload: sends a frame with another magic. */
#include "../rogue.h"

void operation_start(void)
{
    struct FrameHeader header = {0x12345678, FRAME_RESULT, 0, 0};
    transmit(&header, sizeof(header));
}
