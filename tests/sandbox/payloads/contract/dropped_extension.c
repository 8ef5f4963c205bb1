/* Test side, rogue payload: drops the extensions. */
#include "../rogue.h"

void operation_start(void)
{
    uint8_t *header = upgraded_header();
    memset(header + 112, 0, 8);
    write_sector(0);
    send_result(honest_result(0));
}
