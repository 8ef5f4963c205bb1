/* Test side, rogue payload: zeroes the same cluster twice. */
#include "../rogue.h"

void operation_start(void)
{
    struct block_segment *segments = (struct block_segment *)calls->workspace;
    write_toggle();
    segments[0] = segments[1] = (struct block_segment){0x10000 / 512, 0x10000 / 512, 0};
    calls->zero_blocks(segments, 2);
    send_result(honest_result(1));
}
