/* Guest, untrusted: the amend operation; runs the planner on the block queue and carries out its plan. */
#include <string.h>

#include "call_table.h"
#include "planner.h"

static const struct call_table *const calls = (const struct call_table *)INSTAR_CALL_TABLE_ADDR;
static const struct AmendConfig *const config = (const struct AmendConfig *)OPERATION_CONFIG_ADDR;

/* In .bss: too large for the stack's first page. */
static struct verdict verdict;
static struct amend_plan plan;

_Static_assert(PLANNER_RANGES_MAX <= CALL_TABLE_RANGES_MAX, "the executor takes all ranges at once");

static bool read_ranges(void *context, const struct io_range *ranges, uint32_t count)
{
    struct block_range blocks[PLANNER_RANGES_MAX];
    (void)context;
    for (uint32_t i = 0; i < count; i++)
        blocks[i] = (struct block_range){ranges[i].offset, ranges[i].length, ranges[i].buffer};
    return calls->read_blocks(blocks, count);
}

static void send_progress(void *context, uint64_t done, uint64_t total)
{
    struct AmendProgress progress = {done, total};
    (void)context;
    calls->send_frame(FRAME_PROGRESS, &progress, sizeof(progress), true);
}

static bool write_phase(struct planner_workspace *workspace, uint32_t *next)
{
    struct block_range ranges[PLANNER_WRITES_MAX];
    uint32_t count = 0, phase = plan.writes[*next].phase;
    for (; *next < plan.write_count && plan.writes[*next].phase == phase; ++*next) {
        const struct plan_write *w = &plan.writes[*next];
        uint8_t *data = (uint8_t *)workspace + (w->data - (const uint8_t *)workspace);
        ranges[count++] = (struct block_range){w->offset, w->length, data};
    }
    return calls->write_blocks(ranges, count);
}

/* Write the plan, with a barrier between two phases; the host makes the last one itself. */
static bool carry_out(struct planner_workspace *workspace)
{
    for (uint32_t next = 0; next < plan.write_count;)
        if ((next && !calls->flush_blocks()) || !write_phase(workspace, &next))
            return false;
    return true;
}

static void report(void)
{
    struct AmendResult result;
    describe_result(&plan, &verdict, &result);
    if (verdict.count)
        calls->send_frame(FRAME_REFUSALS, verdict.refusals,
                          verdict.count * (uint32_t)sizeof(verdict.refusals[0]), false);
    calls->send_frame(FRAME_RESULT, &result, sizeof(result), true);
}

void operation_start(void);

void operation_start(void)
{
    struct planner_workspace *workspace = (struct planner_workspace *)calls->workspace;
    const struct image_io io = {
        .size = config->image_size,
        .read = read_ranges,
        .progress = send_progress,
    };
    if (calls->magic != CALL_TABLE_MAGIC || calls->version != INSTAR_ABI_VERSION ||
        calls->workspace_size < sizeof(*workspace) || config->magic != AMEND_CONFIG_MAGIC)
        return; /* without a result, which the host takes for a fault */
    if (!(config->flags & AMEND_FLAG_QUIET))
        calls->debug("amend: planning\n");
    if (plan_amend(config, &io, workspace, &plan, &verdict) && !carry_out(workspace)) {
        verdict.count = 1;
        verdict.refusals[0] = (struct AmendRefusal){.reason = REFUSAL_WRITE_FAILED,
                                                    .error = AMEND_ERROR_WRITE_FAILED};
    }
    report();
}
