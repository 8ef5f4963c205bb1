/* Test side, rogue payload: switches in the slack phase. */
#include "../rogue.h"

void operation_start(void)
{
    write_toggle();
    write_in(INSTAR_PHASE_PREPARE, 0);
    send_result(honest_result(1));
}
