/* Test side, rogue payload: writes, and faults. */
#include "../rogue.h"

void operation_start(void)
{
    write_toggle();
    ask_for_sector(0);
    __asm__ volatile("ud2");
}
