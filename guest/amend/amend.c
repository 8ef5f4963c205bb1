/* Guest, untrusted: the amend operation; runs the planner on the block queue and carries out its plan. */
#include <string.h>

#include "call_table.h"
#include "amend/planner.h"

static const struct call_table *const calls = (const struct call_table *)INSTAR_CALL_TABLE_ADDR;
static const struct AmendConfig *const config = (const struct AmendConfig *)OPERATION_CONFIG_ADDR;

/* In .bss: too large for the stack's first page. */
static struct verdict verdict;
static struct amend_plan plan;
static struct asked_options asked;

_Static_assert(IO_RANGES_MAX <= CALL_TABLE_RANGES_MAX, "the executor takes all ranges at once");
_Static_assert(sizeof(struct io_segment) == sizeof(struct block_segment), "one is the other");

static void to_blocks(struct block_range *blocks, const struct io_range *ranges, uint32_t count)
{
    for (uint32_t i = 0; i < count; i++)
        blocks[i] = (struct block_range){ranges[i].offset, ranges[i].length, ranges[i].buffer};
}

static bool read_blocks(void *context, uint32_t phase, const struct io_range *ranges,
                        uint32_t count)
{
    struct block_range blocks[IO_RANGES_MAX];
    (void)context;
    to_blocks(blocks, ranges, count);
    return calls->read_blocks(phase, blocks, count);
}

static bool write_blocks(void *context, uint32_t phase, const struct io_range *ranges,
                         uint32_t count)
{
    struct block_range blocks[IO_RANGES_MAX];
    (void)context;
    to_blocks(blocks, ranges, count);
    return calls->write_blocks(phase, blocks, count);
}

static bool zero_segments(void *context, const struct io_segment *segments, uint32_t count)
{
    (void)context;
    return calls->zero_blocks((const struct block_segment *)segments, count);
}

static void send_progress(void *context, uint64_t done, uint64_t total)
{
    struct AmendProgress progress = {done, total};
    (void)context;
    calls->send_frame(FRAME_PROGRESS, &progress, sizeof(progress), true);
}

static void report(void)
{
    static uint8_t records[FRAME_PAYLOAD_MAX];
    struct AmendResult result;
    describe_result(&plan, &verdict, &result);
    if (!verdict.count)
        calls->send_frame(FRAME_OPTIONS, records, write_options(&plan.target, records), false);
    if (verdict.names_size)
        calls->send_frame(FRAME_NAMES, verdict.names, verdict.names_size, false);
    if (verdict.snapshots_size)
        calls->send_frame(FRAME_SNAPSHOTS, verdict.snapshots, verdict.snapshots_size, false);
    if (verdict.count)
        calls->send_frame(FRAME_REFUSALS, verdict.refusals,
                          verdict.count * (uint32_t)sizeof(verdict.refusals[0]), false);
    calls->send_frame(FRAME_RESULT, &result, sizeof(result), true);
}

operation_entry operation_start;

void operation_start(uint64_t workspace_size)
{
    struct planner_workspace *workspace = (struct planner_workspace *)calls->workspace;
    const struct image_io io = {
        .size = config->image_size,
        .read = read_blocks,
        .write = write_blocks,
        .zero = zero_segments,
        .progress = config->flags & AMEND_FLAG_PROGRESS ? send_progress : 0,
    };
    if (calls->magic != CALL_TABLE_MAGIC || calls->version != INSTAR_ABI_VERSION ||
        workspace_size < sizeof(*workspace) || config->magic != AMEND_CONFIG_MAGIC)
        return; /* without a result, which the host takes for a fault */
    const uint8_t *records = (const uint8_t *)(config + 1);
    if (config->options_size > OPERATION_CONFIG_SIZE - sizeof(*config) ||
        !read_options(records, config->options_size, &asked) || !is_one_step(&asked))
        return;
    if (!(config->flags & AMEND_FLAG_QUIET))
        calls->debug("amend: planning\n");
    (void)plan_amend(config, &asked, &io, workspace, &plan, &verdict);
    report();
}
