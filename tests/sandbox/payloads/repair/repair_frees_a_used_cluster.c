/* Test side, rogue payload: repairs, and lowers the refcount of the header's cluster. */
#include "../rogue.h"

void operation_start(void)
{
    uint64_t table = 0, block = 0;
    const uint8_t *header = read_header();
    for (int i = 0; i < 8; i++)
        table = table << 8 | header[48 + i];
    const uint8_t *entries = read_sector(table);
    for (int i = 0; i < 8; i++)
        block = block << 8 | entries[i];
    read_sector(block)[1] = 0;
    write_in(INSTAR_PHASE_PREPARE, block);
    repaired_header();
    send_repair();
}
