/* Test side, rogue payload: rings the doorbell of both queues, and has nothing for the second. */
#include "../rogue.h"

void operation_start(void)
{
    write_toggle();
    out8(INSTAR_PORT_NOTIFY, INSTAR_BOTH_QUEUES);
}
