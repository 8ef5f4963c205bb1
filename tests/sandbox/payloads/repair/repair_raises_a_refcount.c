/* Test side, rogue payload: repairs, and counts a user of the header that there is not. */
#include "../rogue.h"

void operation_start(void)
{
    const uint8_t *header = read_header();
    const uint8_t *table = read_sector((uint64_t)header[54] << 8 | header[55]);
    uint64_t block = (uint64_t)table[6] << 8 | table[7];
    read_sector(block)[1]++;
    write_in(INSTAR_PHASE_PREPARE, block);
    repaired_header();
    send_repair();
}
