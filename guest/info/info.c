/* Guest, untrusted: the info operation; says what an image says of itself, and stages nothing. */
#include "inspect/info.h"

#include "waiting.h"

static const struct InspectConfig *const config =
    (const struct InspectConfig *)OPERATION_CONFIG_ADDR;

/* In .bss: too large for the stack's first page. */
static struct verdict verdict;

_Static_assert(sizeof(struct info_workspace) <= CALL_TABLE_WORKSPACE_MIN,
               "the workspace does not fit the least RAM");

operation_entry operation_start;

void operation_start(uint64_t workspace_size)
{
    struct info_workspace *workspace = (struct info_workspace *)calls->workspace;
    const struct image_io io = {.size = config->image_size, .read = read_blocks};
    uint32_t waiting = 0;
    const struct sink sink = {&waiting, send_waiting};
    const struct inspection inspection = {&io, config->work_max, &sink, &verdict};
    struct InfoResult result;
    if (!is_executor_known() || workspace_size < sizeof(*workspace) ||
        config->magic != INSPECT_CONFIG_MAGIC)
        return; /* without a result, which the host takes for a fault */
    if (!(config->flags & INSPECT_FLAG_QUIET))
        calls->debug("info: reading\n");
    tell_info(&inspection, workspace, &result);
    if (verdict.count)
        send_waiting(&waiting, FRAME_REFUSALS, verdict.refusals,
                     verdict.count * (uint32_t)sizeof(verdict.refusals[0]));
    calls->send_frame(FRAME_INFO, &result, sizeof(result), true);
}
