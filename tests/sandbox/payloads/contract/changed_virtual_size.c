/* Test side, rogue payload: doubles the virtual size. */
#include "../rogue.h"

void operation_start(void)
{
    uint8_t *header = toggled_header();
    store64(header + 24, UINT64_C(128) << 20);
    write_sector(0);
    send_result(honest_result(1));
}
