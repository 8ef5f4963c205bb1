/* Test side, rogue payload: repairs, and sets an autoclear bit that nobody knows. */
#include "../rogue.h"

void operation_start(void)
{
    repaired_header()[95] |= 0x10;
    send_repair();
}
