/* Test side, rogue payload: rings the doorbell of both queues, and has nothing for the first. */
#include "../rogue.h"

void operation_start(void)
{
    out8(INSTAR_PORT_NOTIFY, INSTAR_BOTH_QUEUES);
}
