/* Test side, rogue payload: sends a frame with a wrong CRC. */
#include "../rogue.h"

void operation_start(void)
{
    struct FrameHeader header = {FRAME_MAGIC, FRAME_RESULT, 0, 0x12345678};
    transmit(&header, sizeof(header));
}
