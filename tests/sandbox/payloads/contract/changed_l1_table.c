/* Test side, rogue payload: moves the L1 table. */
#include "../rogue.h"

void operation_start(void)
{
    uint8_t *header = toggled_header();
    store64(header + 40, 0x50000);
    write_sector(0);
    send_result(honest_result(1));
}
