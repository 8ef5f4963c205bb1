/* Test side, rogue payload: reads behind the end of the image. */
#include "../rogue.h"

void operation_start(void)
{
    request(0, UINT64_C(1) << 40, (uintptr_t)calls->workspace, 512, 2);
}
