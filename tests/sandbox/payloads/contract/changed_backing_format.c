/* Test side, rogue payload: names another backing format. */
#include "../rogue.h"

void operation_start(void)
{
    uint8_t *header = upgraded_header();
    memcpy(header + 120, "raw\0\0", 5);
    write_sector(0);
    send_result(honest_result(0));
}
