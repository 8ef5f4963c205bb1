/* Test side, rogue payload: writes, and never ends. */
#include "../rogue.h"

void operation_start(void)
{
    write_toggle();
    ask_for_sector(0);
    for (;;)
        __asm__ volatile("");
}
