/* Pure, either side: from the options that are asked for and an image to a plan or a verdict. */
#include "plan/amend.h"

#include <string.h>

#include "amend/flags.h"
#include "amend/layout.h"
#include "plan/request.h"
#include "qcow2/qcow2.h"

/* Whether what is asked for is already so. */
static bool is_satisfied(const struct amendment *amendment)
{
    const struct qcow2_header *h = &amendment->image.header;
    const struct target *target = &amendment->target;
    uint64_t cleared = h->autoclear_features & ~target->autoclear_features;
    return target->version == h->version && target->size == h->size &&
           target->compatible_features == h->compatible_features &&
           target->refcount_order == h->refcount_order &&
           !(cleared & QCOW2_AUTOCLEAR_DATA_FILE_RAW) && !changes_text(target);
}

/* Stage what has to change outside the header, and have the target say where it is. False: refused. */
static bool stage_tables(struct amendment *amendment)
{
    struct books *books = &amendment->books;
    struct target *target = &amendment->target;
    uint64_t progress = 2 * amendment->image.l1_entries;
    for (const struct option *const *option = all_options; *option; option++)
        if ((*option)->stage && !(*option)->stage(amendment))
            return false;
    bool downgrade = target->version < amendment->image.header.version;
    if (!finish_books(books, amendment->workspace->new_header) ||
        (books->any_left_alone && !set_copied_flags(books, &amendment->kept, downgrade)))
        return false;
    if (books->table_moved) {
        uint64_t bytes = books->counts.table_entries * QCOW2_TABLE_ENTRY_SIZE;
        target->refcount_table_offset = books->counts.table_offset;
        target->refcount_table_clusters = (uint32_t)(bytes >> amendment->image.header.cluster_bits);
    }
    if (amendment->walked)
        report_progress(&amendment->image.file, progress, progress);
    return true;
}

static bool plan_amended(struct amendment *amendment, struct amend_plan *plan)
{
    struct new_header new = new_header_of(amendment);
    plan->action = AMEND_ACTION_AMENDED;
    bool staged = stage_tables(amendment);
    if (!staged && !is_understood(amendment))
        return false;
    bool fits = lay_out_header(&new); /* after a refusal only to see whether it would */
    plan->atomic = new.atomic;
    return staged && fits;
}

bool plan_amend(const struct AmendConfig *config, const struct asked_options *asked,
                const struct image_io *io, struct planner_workspace *workspace,
                struct amend_plan *plan, struct verdict *verdict)
{
    struct amendment amendment;
    struct target *target = &amendment.target;
    memset(plan, 0, sizeof(*plan));
    start_amendment(&amendment, config, io, workspace, verdict);
    open_books(&amendment.books, &workspace->books, &amendment.image);
    if (!resolve_request(&amendment, config, asked))
        return false;
    if (is_satisfied(&amendment)) {
        target->autoclear_features = amendment.image.header.autoclear_features;
        plan->action = AMEND_ACTION_NOOP;
        plan->atomic = true;
    } else if (!plan_amended(&amendment, plan)) {
        return false;
    }
    plan->target = *target;
    return true;
}
