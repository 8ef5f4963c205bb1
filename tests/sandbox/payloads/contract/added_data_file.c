/* Test side, rogue payload: adds an external data file. */
#include "../rogue.h"

void operation_start(void)
{
    uint8_t *header = upgraded_header();
    store32(header + 128, 0x44415441);
    write_sector(0);
    send_result(honest_result(0));
}
