/* Test side, rogue payload: makes a header that cannot be read. */
#include "../rogue.h"

void operation_start(void)
{
    uint8_t *header = toggled_header();
    store32(header + 20, 40);
    write_sector(0);
    send_result(honest_result(1));
}
