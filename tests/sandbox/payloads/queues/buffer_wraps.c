/* Test side, rogue payload: gives a buffer that wraps around 64 bits. */
#include "../rogue.h"

void operation_start(void)
{
    request(0, 0, UINT64_MAX - 511, 0x40000, 2);
}
