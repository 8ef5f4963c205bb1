/* Test side, rogue payload: never stops talking. */
#include "../rogue.h"

void operation_start(void)
{
    for (;;)
        calls->debug("and another thing, ");
}
