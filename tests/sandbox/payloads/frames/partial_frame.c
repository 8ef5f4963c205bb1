/* Test side, rogue payload: ends in the middle of its result. */
#include "../rogue.h"

void operation_start(void)
{
    struct FrameHeader header = {FRAME_MAGIC, FRAME_RESULT, sizeof(struct AmendResult), 0};
    write_toggle();
    transmit(&header, sizeof(header));
}
