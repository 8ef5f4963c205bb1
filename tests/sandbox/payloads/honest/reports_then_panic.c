/* Test side, honest payload until its result: writes, reports, and ends with a code. */
#include "../rogue.h"

void operation_start(void)
{
    write_toggle();
    send_result(honest_result(1));
    out8(INSTAR_PORT_EXIT, 1);
}
