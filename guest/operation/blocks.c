/* Guest, untrusted: carries out an operation's reads and writes by the executor's calls. */
#include "blocks.h"

_Static_assert(IO_RANGES_MAX <= CALL_TABLE_RANGES_MAX, "the executor takes all ranges at once");
_Static_assert(sizeof(struct io_segment) == sizeof(struct block_segment), "one is the other");

bool is_executor_known(void)
{
    return calls->magic == CALL_TABLE_MAGIC && calls->version == INSTAR_ABI_VERSION;
}

static void to_blocks(struct block_range *blocks, const struct io_range *ranges, uint32_t count)
{
    for (uint32_t i = 0; i < count; i++)
        blocks[i] = (struct block_range){ranges[i].offset, ranges[i].length, ranges[i].buffer};
}

bool read_blocks(void *context, uint32_t phase, const struct io_range *ranges, uint32_t count)
{
    struct block_range blocks[IO_RANGES_MAX];
    (void)context;
    to_blocks(blocks, ranges, count);
    return calls->read_blocks(phase, blocks, count);
}

bool write_blocks(void *context, uint32_t phase, const struct io_range *ranges, uint32_t count)
{
    struct block_range blocks[IO_RANGES_MAX];
    (void)context;
    to_blocks(blocks, ranges, count);
    return calls->write_blocks(phase, blocks, count);
}

bool scatter_sectors(void *context, uint32_t phase, const struct io_sectors *sectors, uint32_t count,
                     bool later)
{
    (void)context;
    return calls->scatter_blocks(phase, sectors->numbers, sectors->data, count, later);
}

bool zero_segments(void *context, const struct io_segment *segments, uint32_t count)
{
    (void)context;
    return calls->zero_blocks((const struct block_segment *)segments, count);
}

void send_progress(void *context, uint64_t done, uint64_t total)
{
    struct AmendProgress progress = {done, total};
    (void)context;
    calls->send_frame(FRAME_PROGRESS, &progress, sizeof(progress), true);
}
