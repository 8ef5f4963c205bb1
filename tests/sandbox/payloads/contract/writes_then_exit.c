/* Test side, rogue payload: writes, and ends without a result. */
#include "../rogue.h"

void operation_start(void)
{
    write_toggle();
    ask_for_sector(0);
}
