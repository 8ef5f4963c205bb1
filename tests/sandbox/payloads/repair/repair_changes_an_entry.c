/* Test side, rogue payload: repairs, and has the last entry of the L1 table name another cluster. */
#include "../rogue.h"

void operation_start(void)
{
    uint8_t *header = read_header();
    uint64_t table = (uint64_t)header[46] << 8 | header[47];
    read_sector(table)[6] ^= 2;
    write_in(INSTAR_PHASE_MAPPING, table);
    repaired_header();
    send_repair();
}
