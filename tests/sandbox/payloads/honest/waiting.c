/* Test side, honest payload: writes many sectors from one buffer, and some of them twice; then holds
 * what a request to read says against what was written. It ends with an amend's result. */
#include "../rogue.h"

#define SECTORS 48
#define FIRST 100 /* sector of the image */
#define DIFFERS 0x21

static void write_again(uint32_t sector, uint32_t sectors, uint8_t value)
{
    struct block_range range = {(FIRST + sector) * 512, sectors * 512, calls->workspace};
    memset(calls->workspace, value, sectors * 512);
    if (!calls->write_blocks(INSTAR_PHASE_PREPARE, &range, 1))
        out8(INSTAR_PORT_EXIT, DIFFERS);
    memset(calls->workspace, 0xee, sectors * 512); /* the buffer is the operation's again */
}

static void expect(uint32_t sector, uint8_t value)
{
    const uint8_t *bytes = ask_for_sector((FIRST + sector) * 512);
    for (int i = 0; i < 512; i++)
        if (bytes[i] != value)
            out8(INSTAR_PORT_EXIT, DIFFERS);
}

void operation_start(void)
{
    for (uint32_t n = 0; n < SECTORS; n++)
        write_again(n, 1, (uint8_t)(n + 1));
    for (uint32_t n = 0; n < SECTORS; n++)
        expect(n, (uint8_t)(n + 1));
    /* Each in its turn: what waits, what is too much to wait, what waits again. */
    write_again(0, 2, 0x70);
    write_again(1, 8, 0x71);
    write_again(2, 1, 0x72);
    expect(0, 0x70);
    expect(1, 0x71);
    expect(2, 0x72);
    expect(8, 0x71);
    expect(9, 10);
    write_toggle();
    write_again(SECTORS, 1, 0x73); /* goes along with the result */
    send_result(honest_result(1));
}
