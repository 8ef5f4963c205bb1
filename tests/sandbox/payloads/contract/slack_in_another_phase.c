/* Test side, rogue payload: writes slack of the header after the switch. */
#include "../rogue.h"

void operation_start(void)
{
    write_toggle();
    write_in(INSTAR_PHASE_RELEASE, 0x1000);
    send_result(honest_result(1));
}
