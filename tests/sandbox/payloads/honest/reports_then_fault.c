/* Test side, honest payload until its result: writes, reports, and faults. */
#include "../rogue.h"

void operation_start(void)
{
    write_toggle();
    send_result(honest_result(1));
    __asm__ volatile("ud2");
}
