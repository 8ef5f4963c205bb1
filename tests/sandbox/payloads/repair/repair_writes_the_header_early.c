/* Test side, rogue payload: repairs the header in the phase before the switch too. */
#include "../rogue.h"

void operation_start(void)
{
    repaired_header();
    write_in(INSTAR_PHASE_MAPPING, 0);
    repaired_header();
    send_repair();
}
