/* Test side, rogue payload: asks for a hole where the contract knows zeros only. */
#include "../rogue.h"

void operation_start(void)
{
    struct block_segment *segments = (struct block_segment *)calls->workspace;
    segments[0] = (struct block_segment){0, 1, 1};
    calls->zero_blocks(segments, 1);
}
