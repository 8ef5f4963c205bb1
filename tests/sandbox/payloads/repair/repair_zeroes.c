/* Test side, rogue payload: repairs, and zeroes the first cluster of guest data. */
#include "../rogue.h"

void operation_start(void)
{
    struct block_segment *segment = (struct block_segment *)(void *)(calls->workspace + 512);
    *segment = (struct block_segment){1, 1, 0};
    calls->zero_blocks(segment, 1);
    repaired_header();
    send_repair();
}
