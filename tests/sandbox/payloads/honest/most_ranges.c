/* Test side, honest payload: reads and writes as many ranges at once as the executor takes, and finds
 * that it takes no more. It ends with an amend's result. */
#include "../rogue.h"

#define FIRST 100 /* sector of the image */
#define DIFFERS 0x21

static void expect(bool is_so)
{
    if (!is_so)
        out8(INSTAR_PORT_EXIT, DIFFERS);
}

void operation_start(void)
{
    struct block_range ranges[CALL_TABLE_RANGES_MAX + 1];
    for (uint32_t n = 0; n <= CALL_TABLE_RANGES_MAX; n++) {
        ranges[n] = (struct block_range){(FIRST + n) * 512, 512, calls->workspace + n * 512};
        memset(ranges[n].buffer, (int)n + 1, 512);
    }
    expect(!calls->write_blocks(INSTAR_PHASE_PREPARE, ranges, CALL_TABLE_RANGES_MAX + 1));
    expect(calls->write_blocks(INSTAR_PHASE_PREPARE, ranges, CALL_TABLE_RANGES_MAX));
    memset(calls->workspace, 0xee, sizeof(ranges) / sizeof(*ranges) * 512);
    expect(!calls->read_blocks(INSTAR_PHASE_COUNT, ranges, CALL_TABLE_RANGES_MAX + 1));
    expect(calls->read_blocks(INSTAR_PHASE_COUNT, ranges, CALL_TABLE_RANGES_MAX));
    for (uint32_t n = 0; n < CALL_TABLE_RANGES_MAX; n++)
        expect(calls->workspace[n * 512] == n + 1);
    expect(calls->workspace[CALL_TABLE_RANGES_MAX * 512] == 0xee);
    write_toggle();
    send_result(honest_result(1));
}
