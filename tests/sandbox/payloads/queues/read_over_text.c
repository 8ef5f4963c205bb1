/* Test side, rogue payload: has the image read over the executor. */
#include "../rogue.h"

void operation_start(void)
{
    request(0, 0, 0x11000, 512, 2);
}
