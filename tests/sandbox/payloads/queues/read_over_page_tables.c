/* Test side, rogue payload: has the image read over the page tables. */
#include "../rogue.h"

void operation_start(void)
{
    request(0, 0, 0x2000, 512, 2);
}
