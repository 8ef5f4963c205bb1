/* Test side, rogue payload: never stops flushing. */
#include "../rogue.h"

void operation_start(void)
{
    for (;;)
        read_header();
}
