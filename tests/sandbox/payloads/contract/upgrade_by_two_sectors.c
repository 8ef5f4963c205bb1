/* Test side, rogue payload: moves the name out of the first sector, in which it has room. */
#include "../rogue.h"

void operation_start(void)
{
    struct AmendResult result = honest_result(0);
    struct block_range both = {0, 1024, calls->workspace};
    uint8_t *header;
    uint32_t name;
    calls->read_blocks(INSTAR_PHASE_PREPARE, &both, 1);
    header = upgraded_header();
    name = (uint32_t)header[14] << 8 | header[15];
    memmove(header + 0x258, header + name, header[19]);
    memset(header + name, 0, header[19]);
    store64(header + 8, 0x258);
    calls->write_blocks(INSTAR_PHASE_SWITCH, &both, 1);
    result.atomic = 0;
    send_result(result);
}
