/* Test side, rogue payload: sets a field that nobody asked for. */
#include "../rogue.h"

void operation_start(void)
{
    uint8_t *header = upgraded_header();
    header[104] = 1;
    write_sector(0);
    send_result(honest_result(0));
}
