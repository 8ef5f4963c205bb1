/* Test side, honest payload: scatters sectors at once and later, among reads and writes, and holds what a
 * request to read says against them. It ends with an amend's result. */
#include "../rogue.h"

#define FIRST 100 /* sector of the image */
#define SECTORS 3
#define DIFFERS 0x21

static void expect(bool is_so)
{
    if (!is_so)
        out8(INSTAR_PORT_EXIT, DIFFERS);
}

/* In the workspace: the numbers and data of two requests, what is written, what is read. */
#define PLACE 4096
#define WRITTEN (2 * PLACE)
#define READ (WRITTEN + 32768)

/* Every second sector from `sector` on. */
static void scatter_from(uint32_t place, uint32_t sector, uint8_t value, bool later)
{
    uint64_t *numbers = (uint64_t *)(calls->workspace + place * PLACE);
    uint8_t *data = (uint8_t *)(numbers + SECTORS);
    for (uint32_t n = 0; n < SECTORS; n++)
        numbers[n] = FIRST + sector + 2 * n;
    memset(data, value, SECTORS * 512);
    expect(calls->scatter_blocks(INSTAR_PHASE_PREPARE, numbers, data, SECTORS, later));
}

static void scatter(uint32_t sector, uint8_t value, bool later)
{
    scatter_from(0, sector, value, later);
}

/* What was put off has been done: its memory is the operation's again. */
static void spoil(void)
{
    memset(calls->workspace, 0xff, 2 * PLACE);
}

static void write_sectors(uint32_t sector, uint32_t sectors, uint8_t value)
{
    struct block_range range = {(FIRST + sector) * 512, sectors * 512,
                                calls->workspace + WRITTEN};
    memset(range.buffer, value, sectors * 512);
    expect(calls->write_blocks(INSTAR_PHASE_PREPARE, &range, 1));
}

/* A dot is any value. */
static void expect_read(const char *values)
{
    uint32_t count = 0;
    while (values[count])
        count++;
    struct block_range range = {FIRST * 512, count * 512, calls->workspace + READ};
    expect(calls->read_blocks(INSTAR_PHASE_COUNT, &range, 1));
    spoil();
    for (uint32_t n = 0; n < count; n++)
        expect(values[n] == '.' || range.buffer[n * 512] == (uint8_t)values[n]);
}

static void read_what_was_read_ahead(void)
{
    struct block_range range = {0, 512, calls->workspace + READ};
    expect(calls->read_blocks(INSTAR_PHASE_PREPARE, &range, 1));
    spoil();
}

void operation_start(void)
{
    struct block_range many[CALL_TABLE_RANGES_MAX];
    scatter(0, 'a', false);
    expect_read("a.a.a");
    scatter(1, 'b', true);
    expect_read("ababab");
    write_sectors(1, 1, 'c'); /* waits, before and after what is put off */
    scatter(1, 'd', true);
    write_sectors(3, 1, 'e');
    expect_read("adaead");
    scatter(0, 'f', true);
    scatter_from(1, 1, 'g', true); /* one can wait */
    expect(calls->scatter_blocks(INSTAR_PHASE_PREPARE, 0, 0, 0, false));
    spoil();
    expect_read("fgfgfg");
    scatter(6, 'h', true);
    read_what_was_read_ahead();
    expect_read("fgfgfgh.h.h");
    scatter(7, 'i', true);
    for (uint32_t n = 0; n < CALL_TABLE_RANGES_MAX; n++) /* leave no room for anything that waits */
        many[n] = (struct block_range){(FIRST + 7) * 512, 512, calls->workspace + READ + n * 512};
    expect(calls->read_blocks(INSTAR_PHASE_COUNT, many, CALL_TABLE_RANGES_MAX));
    for (uint32_t n = 0; n < CALL_TABLE_RANGES_MAX; n++)
        expect(calls->workspace[READ + n * 512] == 'i');
    spoil();
    scatter(13, 'j', true);
    write_sectors(20, 64, 'k'); /* too much to wait */
    spoil();
    expect_read("fgfgfghihihi.j.j.j");
    expect(!calls->scatter_blocks(INSTAR_PHASE_PREPARE, 0, 0, 2049, true));
    write_toggle();
    scatter(90, 'l', true); /* goes along with the result */
    send_result(honest_result(1));
}
