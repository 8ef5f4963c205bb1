/* Test side, rogue payload: changes what the old header refers to before the switch. */
#include "../rogue.h"

void operation_start(void)
{
    struct block_range name = {0, 512, calls->workspace};
    calls->read_blocks(INSTAR_PHASE_PREPARE, &name, 1);
    write_in(INSTAR_PHASE_PREPARE, 0x200);
    upgraded_header();
    write_sector(0);
    send_result(honest_result(0));
}
