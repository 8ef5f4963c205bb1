/* Pure, either side: from a request for a repair and an image to a plan or a verdict. */
#include "plan/repair.h"

#include <string.h>

#include "amend/layout.h"
#include "plan/request.h"
#include "qcow2/qcow2.h"

bool is_repair(const struct AmendConfig *config)
{
    return config->flags &
           (AMEND_FLAG_REPAIR | AMEND_FLAG_REPAIR_LEAKS | AMEND_FLAG_REPAIR_ALL);
}

/* Stage what is wrong, and the header if it changes with that. False: refused. */
static bool plan_repaired(struct amendment *amendment, enum repair_extent extent,
                          struct repair_memory *memory, struct amend_plan *plan)
{
    struct qcow2_image *image = &amendment->image;
    struct target *target = &amendment->target;
    const struct qcow2_header *h = &image->header;
    struct new_header new = new_header_of(amendment);
    if (!stage_repair(image, target, &amendment->workspace->recode, memory, extent))
        return false;
    plan->atomic = true;
    if (image->file.staged == 0 && target->incompatible_features == h->incompatible_features)
        return true;
    plan->action = AMEND_ACTION_AMENDED;
    bool header = target->incompatible_features != h->incompatible_features ||
                  target->autoclear_features != h->autoclear_features ||
                  target->refcount_table_offset != h->refcount_table_offset;
    return !header || lay_out_header(&new);
}

bool plan_repair(const struct AmendConfig *config, const struct image_io *io,
                 struct planner_workspace *workspace, struct repair_memory *memory,
                 struct amend_plan *plan, struct verdict *verdict)
{
    static const struct asked_options nothing;
    enum repair_extent extent =
        config->flags & AMEND_FLAG_REPAIR_LEAKS ? REPAIR_LEAKS : REPAIR_EVERYTHING;
    struct amendment amendment;
    memset(plan, 0, sizeof(*plan));
    start_amendment(&amendment, config, io, workspace, verdict);
    amendment.image.may_be_dirty = true;
    if (!resolve_request(&amendment, config, &nothing))
        return false;
    const struct qcow2_header *h = &amendment.image.header;
    plan->atomic = true;
    bool wanted = !(config->flags & AMEND_FLAG_REPAIR) ||
                  h->incompatible_features & QCOW2_INCOMPATIBLE_DIRTY;
    if (wanted && !plan_repaired(&amendment, extent, memory, plan))
        return false;
    if (plan->action == AMEND_ACTION_NOOP)
        amendment.target.autoclear_features = h->autoclear_features;
    plan->target = amendment.target;
    return true;
}
