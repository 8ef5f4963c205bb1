/* Test side, rogue payload: sends the executor's text as a frame. */
#include "../rogue.h"

void operation_start(void)
{
    struct descriptor *descriptor = (struct descriptor *)INSTAR_TRANSMIT_DESC_ADDR;
    *descriptor = (struct descriptor){0x11000, 64, 0, 0};
    ((struct available *)INSTAR_TRANSMIT_AVAIL_ADDR)->index = 1;
    out8(INSTAR_PORT_NOTIFY, INSTAR_TRANSMIT_QUEUE);
}
