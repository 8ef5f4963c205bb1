/* Pure, either side: from a request and an image to a plan or a verdict. */
#include "plan/plan.h"

#include <string.h>

#include "amend/amendment.h"
#include "amend/flags.h"
#include "amend/keys.h"
#include "amend/layout.h"
#include "qcow2/extensions.h"
#include "qcow2/header.h"
#include "qcow2/qcow2.h"
#include "qcow2/snapshots.h"

/* What the host read at the same offsets must be what is there now, or one of the two is wrong. */
static bool check_host_agrees(const struct qcow2_image *image, const struct AmendConfig *c)
{
    const struct qcow2_header *h = &image->header;
    bool bits_known = h->refcount_order <= QCOW2_REFCOUNT_ORDER_MAX;
    return (c->current_version == h->version && c->cluster_size == h->cluster_size &&
            c->current_refcount_bits == (bits_known ? UINT32_C(1) << h->refcount_order : 0) &&
            c->current_incompatible_features == h->incompatible_features &&
            c->current_compatible_features == h->compatible_features &&
            c->current_autoclear_features == h->autoclear_features && c->virtual_size == h->size &&
            c->image_size == image->file.io->size) ||
           refuse(image->file.verdict, REFUSAL_HEADER_MISMATCH, AMEND_ERROR_HEADER_MISMATCH, 0, 0,
                  0);
}

/* The header as it is, but for what any writer must do to it. */
static struct target start_target(const struct qcow2_header *h)
{
    return (struct target){
        .version = h->version,
        .incompatible_features = h->incompatible_features,
        .compatible_features = h->compatible_features,
        /* "Header", autoclear_features: whoever writes clears the bits it does not know. */
        .autoclear_features = h->autoclear_features & QCOW2_AUTOCLEAR_KNOWN,
        .size = h->size,
        .l1_size = h->l1_size,
        .l1_table_offset = h->l1_table_offset,
        .refcount_table_offset = h->refcount_table_offset,
        .refcount_table_clusters = h->refcount_table_clusters,
        .refcount_order = h->refcount_order,
        .snapshots_offset = h->snapshots_offset,
    };
}

/* Whether the tables, and the refcounts, of an image that is refused mean what they say. */
static bool is_understood(const struct amendment *amendment)
{
    const uint64_t plain = QCOW2_INCOMPATIBLE_DATA_FILE | QCOW2_INCOMPATIBLE_COMPRESSION |
                           QCOW2_INCOMPATIBLE_EXTENDED_L2;
    const struct qcow2_header *h = &amendment->image.header;
    return !amendment->image.file.verdict->unsound && !(h->incompatible_features & ~plain) &&
           h->refcount_order <= QCOW2_REFCOUNT_ORDER_MAX;
}

static struct new_header new_header_of(struct amendment *amendment)
{
    return (struct new_header){
        .image = &amendment->image,
        .target = &amendment->target,
        .bytes = amendment->workspace->new_header,
    };
}

/* Note what would be refused later, too: after a refusal nothing is staged. */
static void look_ahead(struct amendment *amendment)
{
    struct new_header new = new_header_of(amendment);
    for (const struct option *const *option = all_options; *option; option++)
        if ((*option)->foresee)
            (*option)->foresee(amendment);
    if (is_understood(amendment))
        (void)lay_out_header(&new);
}

/* Judge the image and what is asked of it. False: refused. */
static bool judge(struct amendment *amendment, const struct AmendConfig *config,
                  const struct asked_options *asked)
{
    struct qcow2_image *image = &amendment->image;
    const struct verdict *verdict = image->file.verdict;
    if (!parse_header(image) || !check_host_agrees(image, config) || !parse_extensions(image))
        return false;
    amendment->target = start_target(&image->header);
    image->file.growth_needed = image->header.cluster_size;
    for (const struct option *const *option = all_options; *option; option++)
        (*option)->resolve(amendment, &asked->values[(*option)->key]);
    for (const struct option *const *option = all_options; *option; option++)
        if ((*option)->check)
            (*option)->check(amendment);
    if (!verdict->unsound && !image->snapshots_checked)
        check_snapshots(image, 0, 0);
    if (config->flags & AMEND_FLAG_KEYS && is_understood(amendment))
        (void)check_luks_region(amendment);
    if (verdict->count && is_understood(amendment))
        look_ahead(amendment);
    return verdict->count == 0;
}

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

/* Begin with an image of which nothing is known. */
static void start_amendment(struct amendment *amendment, const struct AmendConfig *config,
                            const struct image_io *io, struct planner_workspace *workspace,
                            struct verdict *verdict)
{
    *amendment = (struct amendment){
        .workspace = workspace,
        .may_drop_bitmaps = config->flags & AMEND_FLAG_DROP_BITMAPS,
        .may_change_backing = config->flags & AMEND_FLAG_CHANGE_BACKING,
        .may_shrink = config->flags & AMEND_FLAG_SHRINK,
        .backing_size = config->backing_size,
        .kept = {.l1_entries = UINT64_MAX},
    };
    start_verdict(verdict);
    open_qcow2(&amendment->image, &workspace->image, io, verdict, config->work_max);
    for (uint32_t i = 0; i < READ_ALONG_MAX; i++)
        amendment->image.along[i] = config->read_along[i];
    amendment->image.file.max_growth = config->max_growth;
    amendment->image.file.fixed_size = config->flags & AMEND_FLAG_FIXED_SIZE;
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
    if (!judge(&amendment, config, asked))
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
    if (!judge(&amendment, config, &nothing))
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
