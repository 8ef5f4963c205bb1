/* Pure, either side: collects the reasons to refuse an image. */
#include "verdict.h"

/* Of a reason that holds for many snapshots, the first few are enough. */
#define SAME_REASON_MAX 8

void start_verdict(struct verdict *verdict)
{
    verdict->count = verdict->names_size = verdict->snapshots_size = 0;
    verdict->unsound = false;
}

bool refuse(struct verdict *verdict, uint32_t reason, uint32_t error, uint64_t detail0,
            uint64_t detail1, uint64_t detail2)
{
    uint32_t same = 0;
    verdict->unsound |= error == AMEND_ERROR_PARSE_FAILED || error == AMEND_ERROR_READ_FAILED ||
                        error == AMEND_ERROR_WORK_LIMIT;
    for (uint32_t i = 0; i < verdict->count; i++)
        same += verdict->refusals[i].reason == reason;
    if (verdict->count == REFUSAL_MAX || same == SAME_REASON_MAX)
        return false;
    verdict->refusals[verdict->count++] = (struct AmendRefusal){
        .reason = reason,
        .error = error,
        .detail = {detail0, detail1, detail2},
    };
    return false;
}
