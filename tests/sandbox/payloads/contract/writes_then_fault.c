/* Test side, rogue payload: writes, and faults. */
#include "../rogue.h"

void operation_start(void)
{
    write_toggle();
    __asm__ volatile("ud2");
}
