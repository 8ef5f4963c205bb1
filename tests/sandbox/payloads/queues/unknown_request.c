/* Test side, rogue payload: asks for a request that does not exist. */
#include "../rogue.h"

void operation_start(void)
{
    request(4, 0, (uintptr_t)calls->workspace, 512, 0);
}
