/* Test side, rogue payload: never stops flushing. */
#include "rogue.h"

void operation_start(void)
{
    for (;;)
        calls->flush_blocks();
}
