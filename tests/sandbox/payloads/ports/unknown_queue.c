/* Test side, rogue payload: rings the doorbell of a queue that does not exist. */
#include "../rogue.h"

void operation_start(void)
{
    out8(INSTAR_PORT_NOTIFY, 3);
}
