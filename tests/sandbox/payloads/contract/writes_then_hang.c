/* Test side, rogue payload: writes, and never ends. */
#include "../rogue.h"

void operation_start(void)
{
    write_toggle();
    for (;;)
        __asm__ volatile("");
}
