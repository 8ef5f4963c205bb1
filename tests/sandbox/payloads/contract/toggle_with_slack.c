/* Test side, rogue payload: fills bytes of the header cluster that nothing refers to. */
#include "../rogue.h"

void operation_start(void)
{
    memset(calls->workspace, 0xCC, 512);
    write_in(INSTAR_PHASE_PREPARE, 1024);
    write_toggle();
    send_result(honest_result(1));
}
