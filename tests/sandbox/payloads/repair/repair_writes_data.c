/* Test side, rogue payload: repairs, and writes over guest data. */
#include "../rogue.h"

void operation_start(void)
{
    read_sector(512)[0] ^= 1;
    write_in(INSTAR_PHASE_PREPARE, 512);
    repaired_header();
    send_repair();
}
