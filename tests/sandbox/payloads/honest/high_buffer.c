/* Test side, honest payload: reads and writes at the end of 4 MiB of RAM, where there are so many. */
#include "../rogue.h"

void operation_start(void)
{
    struct block_range range = {0, 512, (uint8_t *)(2 * INSTAR_RAM_SIZE - 512)};
    calls->read_blocks(INSTAR_PHASE_COUNT, &range, 1);
    range.buffer[87] |= 1;
    calls->write_blocks(INSTAR_PHASE_SWITCH, &range, 1);
    send_result(honest_result(1));
}
