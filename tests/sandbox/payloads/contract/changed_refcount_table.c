/* Test side, rogue payload: moves the refcount table. */
#include "../rogue.h"

void operation_start(void)
{
    uint8_t *header = toggled_header();
    store64(header + 48, 0x30000);
    write_sector(0);
    send_result(honest_result(1));
}
