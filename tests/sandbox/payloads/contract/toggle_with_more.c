/* Test side, rogue payload: changes a byte of the first sector that nothing refers to. */
#include "../rogue.h"

void operation_start(void)
{
    toggled_header()[400] ^= 0x55;
    write_sector(0);
    send_result(honest_result(1));
}
