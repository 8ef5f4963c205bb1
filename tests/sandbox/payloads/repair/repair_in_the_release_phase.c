/* Test side, rogue payload: repairs, and writes once the header has been switched. */
#include "../rogue.h"

void operation_start(void)
{
    read_sector(512);
    write_in(INSTAR_PHASE_RELEASE, 512);
    repaired_header();
    send_repair();
}
