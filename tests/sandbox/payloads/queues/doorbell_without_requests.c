/* Test side, rogue payload: rings the doorbell for nothing. */
#include "../rogue.h"

void operation_start(void)
{
    out8(INSTAR_PORT_NOTIFY, INSTAR_BLOCK_QUEUE);
}
