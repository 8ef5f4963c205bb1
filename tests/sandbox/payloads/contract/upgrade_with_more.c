/* Test side, rogue payload: fills a byte of the new first sector that nothing refers to. */
#include "../rogue.h"

void operation_start(void)
{
    upgraded_header()[500] = 0x55;
    write_sector(0);
    send_result(honest_result(0));
}
