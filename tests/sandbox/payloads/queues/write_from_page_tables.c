/* Test side, rogue payload: writes the page tables to the image. */
#include "../rogue.h"

void operation_start(void)
{
    request(1, 0, 0x2000, 512, 0);
}
