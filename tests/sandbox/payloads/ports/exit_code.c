/* Test side, rogue payload: ends with a code. */
#include "../rogue.h"

void operation_start(void)
{
    out8(INSTAR_PORT_EXIT, 7);
}
