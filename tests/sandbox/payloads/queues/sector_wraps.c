/* Test side, rogue payload: reads at a sector that wraps around 64 bits. */
#include "../rogue.h"

void operation_start(void)
{
    request(0, UINT64_MAX, (uintptr_t)calls->workspace, 1024, 2);
}
