/* Test side, rogue payload: zeroes a cluster in a change of the header alone. */
#include "../rogue.h"

void operation_start(void)
{
    struct block_segment *segments = (struct block_segment *)calls->workspace;
    write_toggle();
    segments[0] = (struct block_segment){0x10000 / 512, 0x10000 / 512, 0};
    calls->zero_blocks(segments, 1);
    send_result(honest_result(1));
}
