/* Guest, untrusted: the amend operation; runs the planner on the block queue and carries out its plan. */
#include <string.h>

#include "blocks.h"
#include "plan/amend.h"
#include "plan/repair.h"
#include "plan/result.h"

static const struct AmendConfig *const config = (const struct AmendConfig *)OPERATION_CONFIG_ADDR;

/* In .bss: too large for the stack's first page. */
static struct verdict verdict;
static struct amend_plan plan;
static struct asked_options asked;
static struct repair_memory repair_memory;

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

_Static_assert(sizeof(struct planner_workspace) <= CALL_TABLE_WORKSPACE_MIN,
               "the workspace does not fit the least RAM");

operation_entry operation_start;

void operation_start(uint64_t workspace_size)
{
    struct planner_workspace *workspace = (struct planner_workspace *)calls->workspace;
    const struct image_io io = {
        .size = config->image_size,
        .read = read_blocks,
        .write = write_blocks,
        .scatter = scatter_sectors,
        .zero = zero_segments,
        .progress = config->flags & AMEND_FLAG_PROGRESS ? send_progress : 0,
    };
    if (!is_executor_known() || workspace_size < sizeof(*workspace) ||
        config->magic != AMEND_CONFIG_MAGIC)
        return; /* without a result, which the host takes for a fault */
    const uint8_t *records = (const uint8_t *)(config + 1);
    if (config->options_size > OPERATION_CONFIG_SIZE - sizeof(*config) ||
        !read_options(records, config->options_size, &asked) || !is_one_step(&asked) ||
        (is_repair(config) && config->options_size))
        return;
    if (!(config->flags & AMEND_FLAG_QUIET))
        calls->debug("amend: planning\n");
    repair_memory.counts = (uint8_t *)(workspace + 1);
    repair_memory.size = workspace_size - sizeof(*workspace);
    if (is_repair(config))
        (void)plan_repair(config, &io, workspace, &repair_memory, &plan, &verdict);
    else
        (void)plan_amend(config, &asked, &io, workspace, &plan, &verdict);
    report();
}
