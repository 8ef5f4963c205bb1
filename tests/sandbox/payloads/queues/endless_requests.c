/* Test side, rogue payload: never stops reading. */
#include "../rogue.h"

void operation_start(void)
{
    for (;;)
        ask_for_sector(0);
}
