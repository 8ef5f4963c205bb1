/* Test side, rogue payload: makes more chains available than there are. */
#include "../rogue.h"

void operation_start(void)
{
    ((struct available *)INSTAR_BLOCK_AVAIL_ADDR)->index = 129;
    out8(INSTAR_PORT_NOTIFY, INSTAR_BLOCK_QUEUE);
}
