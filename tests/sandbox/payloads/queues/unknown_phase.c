/* Test side, rogue payload: writes in a phase that does not exist. */
#include "../rogue.h"

void operation_start(void)
{
    write_in(INSTAR_PHASE_COUNT, 0);
    ask_for_sector(0);
}
