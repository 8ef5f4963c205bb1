/* Test side, rogue payload: adds a snapshot. */
#include "../rogue.h"

void operation_start(void)
{
    uint8_t *header = toggled_header();
    store32(header + 60, 1);
    write_sector(0);
    send_result(honest_result(1));
}
