/* Test side, honest payload: reads parts of the image's first 16 KiB in phase 0 and, by requests of their
 * own, before the last phase, and holds one against the other. It ends with an amend's result. */
#include "../rogue.h"

#define LAST 0x4000
#define DIFFERS 0x21

static void compare(uint64_t offset, uint64_t length)
{
    uint8_t *ahead = calls->workspace, *asked = calls->workspace + LAST;
    struct block_range range = {offset, length, ahead};
    memset(ahead, 0xee, LAST);
    memset(asked, 0xdd, LAST);
    calls->read_blocks(INSTAR_PHASE_PREPARE, &range, 1);
    range.buffer = asked;
    calls->read_blocks(INSTAR_PHASE_COUNT, &range, 1);
    for (uint64_t i = 0; i < length; i++)
        if (ahead[i] != asked[i])
            out8(INSTAR_PORT_EXIT, DIFFERS);
    if (ahead[length] != 0xee)
        out8(INSTAR_PORT_EXIT, DIFFERS);
}

void operation_start(void)
{
    for (uint64_t offset = 0; offset < LAST - 512; offset += 512)
        for (uint64_t length = 512; length < LAST - offset; length += 512)
            compare(offset, length);
    write_toggle();
    /* Nor does a read of phase 0 see what is staged, wherever it comes from. */
    if (read_sector(0)[87] & 1 || !(ask_for_sector(0)[87] & 1))
        out8(INSTAR_PORT_EXIT, DIFFERS);
    send_result(honest_result(1));
}
