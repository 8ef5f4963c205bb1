/* Pure, either side: what is told of a plan. */
#include "plan/result.h"

#include <string.h>

#include "qcow2/qcow2.h"

void describe_result(const struct amend_plan *plan, const struct verdict *verdict,
                     struct AmendResult *result)
{
    memset(result, 0, sizeof(*result));
    result->magic = AMEND_RESULT_MAGIC;
    result->target_format = AMEND_FORMAT_QCOW2;
    result->refusal_count = verdict->count;
    if (verdict->count) {
        result->error = verdict->refusals[0].error;
        return;
    }
    result->action = plan->action;
    result->resulting_version = plan->target.version;
    result->resulting_lazy_refcounts =
        plan->target.compatible_features & QCOW2_COMPATIBLE_LAZY_REFCOUNTS ? 1 : 0;
    result->atomic = plan->atomic;
    result->resulting_incompatible_features = plan->target.incompatible_features;
    result->resulting_compatible_features = plan->target.compatible_features;
    result->resulting_autoclear_features = plan->target.autoclear_features;
}
