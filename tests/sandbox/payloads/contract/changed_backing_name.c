/* Test side, rogue payload: names another backing file. */
#include "../rogue.h"

void operation_start(void)
{
    uint8_t *header = toggled_header();
    memcpy(header + header[15], "/etc", 4);
    write_sector(0);
    send_result(honest_result(1));
}
