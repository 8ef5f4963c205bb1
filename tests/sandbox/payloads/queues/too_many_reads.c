/* Test side, rogue payload: reads the image over and over. */
#include "../rogue.h"

void operation_start(void)
{
    struct block_range ranges[CALL_TABLE_RANGES_MAX];
    for (uint32_t i = 0; i < CALL_TABLE_RANGES_MAX; i++)
        ranges[i] = (struct block_range){0, 0x10000, calls->workspace};
    for (;;)
        calls->read_blocks(INSTAR_PHASE_PREPARE, ranges, CALL_TABLE_RANGES_MAX);
}
