/* Guest, untrusted: the check operation; compares refcounts and flags with the tables, and stages nothing. */
#include "inspect/check.h"

#include "waiting.h"

static const struct InspectConfig *const config =
    (const struct InspectConfig *)OPERATION_CONFIG_ADDR;

/* In .bss: too large for the stack's first page. */
static struct verdict verdict;

_Static_assert(sizeof(struct check_workspace) <= CALL_TABLE_WORKSPACE_MIN,
               "the workspace does not fit the least RAM");
/* What lies before a workspace is as large in any RAM. */
_Static_assert(INSTAR_RAM_SIZE - CALL_TABLE_WORKSPACE_MIN + sizeof(struct check_workspace) <=
                   CHECK_MEMORY_RESERVED,
               "counts have less memory than the host takes them to have");

operation_entry operation_start;

void operation_start(uint64_t workspace_size)
{
    struct check_workspace *workspace = (struct check_workspace *)calls->workspace;
    const struct image_io io = {
        .size = config->image_size,
        .read = read_blocks,
        .progress = config->flags & INSPECT_FLAG_PROGRESS ? send_progress : 0,
    };
    uint32_t waiting = 0;
    const struct sink sink = {&waiting, send_waiting};
    const struct inspection inspection = {&io, config->work_max, &sink, &verdict};
    struct CheckResult result;
    if (!is_executor_known() || workspace_size < sizeof(*workspace) ||
        config->magic != INSPECT_CONFIG_MAGIC)
        return; /* without a result, which the host takes for a fault */
    if (!(config->flags & INSPECT_FLAG_QUIET))
        calls->debug("check: counting\n");
    check_image(&inspection, workspace, workspace_size - sizeof(*workspace), &result);
    if (verdict.count)
        send_waiting(&waiting, FRAME_REFUSALS, verdict.refusals,
                     verdict.count * (uint32_t)sizeof(verdict.refusals[0]));
    calls->send_frame(FRAME_CHECK, &result, sizeof(result), true);
}
