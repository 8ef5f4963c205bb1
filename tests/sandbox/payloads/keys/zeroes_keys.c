/* Test side, rogue payload: zeroes the LUKS header, and says that there is nothing to do. */
#include "said.h"

void operation_start(void)
{
    struct block_segment *segments = (struct block_segment *)calls->workspace;
    struct AmendResult result = noop_of(read_header());
    segments[0] = (struct block_segment){0x10000 / 512, 0x10000 / 512, 0};
    calls->zero_blocks(segments, 1);
    send_result(result);
}
