/* Test side, rogue payload: drops the backing file. */
#include "../rogue.h"

void operation_start(void)
{
    uint8_t *header = upgraded_header();
    store64(header + 8, 0);
    write_sector(0);
    send_result(honest_result(0));
}
