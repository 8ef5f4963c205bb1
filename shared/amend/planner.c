/* Pure, either side: from a request and an image to a plan or a verdict. */
#include "amend/planner.h"

#include <string.h>

#include "qcow2/bytes.h"
#include "amend/internal.h"

/* Of a reason that holds for each of many snapshots the first few are enough. */
#define SAME_REASON_MAX 8

void refuse(struct planner *planner, uint32_t reason, uint32_t error, uint64_t detail0,
            uint64_t detail1, uint64_t detail2)
{
    struct verdict *v = planner->verdict;
    uint32_t same = 0;
    planner->unsound |= error == AMEND_ERROR_PARSE_FAILED || error == AMEND_ERROR_READ_FAILED ||
                        error == AMEND_ERROR_WORK_LIMIT;
    for (uint32_t i = 0; i < v->count; i++)
        same += v->refusals[i].reason == reason;
    if (v->count == REFUSAL_MAX || same == SAME_REASON_MAX)
        return;
    v->refusals[v->count++] = (struct AmendRefusal){
        .reason = reason,
        .error = error,
        .detail = {detail0, detail1, detail2},
    };
}

/* What is asked for, in the header's terms. */
static void resolve_target(struct planner *planner)
{
    const struct qcow2_header *h = &planner->header;
    uint32_t flags = planner->config->flags;
    planner->target_version = h->version;
    if (flags & AMEND_FLAG_SET_COMPAT)
        planner->target_version = flags & AMEND_FLAG_COMPAT_V3 ? 3 : 2;
    planner->target_lazy = h->compatible_features & QCOW2_COMPATIBLE_LAZY_REFCOUNTS;
    if (flags & AMEND_FLAG_SET_LAZY)
        planner->target_lazy = flags & AMEND_FLAG_LAZY_ON;
    else if (planner->target_version == 2)
        planner->target_lazy = false;
    if (planner->target_lazy && planner->target_version == 2) {
        refuse(planner, REFUSAL_LAZY_NEEDS_V3, AMEND_ERROR_LAZY_NEEDS_V3, 0, 0, 0);
        planner->target_lazy = false;
    }
}

/* What version 2 cannot express, as far as the header tells. */
static void check_downgrade(struct planner *planner)
{
    const struct qcow2_header *h = &planner->header;
    if (h->refcount_order != QCOW2_REFCOUNT_ORDER_DEFAULT &&
        h->refcount_order <= QCOW2_REFCOUNT_ORDER_MAX)
        refuse(planner, REFUSAL_DOWNGRADE_REFCOUNT_WIDTH, AMEND_ERROR_REFCOUNT_WIDTH,
               UINT64_C(1) << h->refcount_order, 0, 0);
    if (h->incompatible_features & QCOW2_INCOMPATIBLE_DATA_FILE)
        refuse(planner, REFUSAL_DOWNGRADE_DATA_FILE, AMEND_ERROR_DOWNGRADE_BLOCKED, 0, 0, 0);
    if (h->incompatible_features & QCOW2_INCOMPATIBLE_EXTENDED_L2)
        refuse(planner, REFUSAL_DOWNGRADE_EXTENDED_L2, AMEND_ERROR_DOWNGRADE_BLOCKED, 0, 0, 0);
    planner->drop_bitmaps = h->has_bitmaps;
    if (h->has_bitmaps && !(planner->config->flags & AMEND_FLAG_DROP_BITMAPS)) {
        refuse(planner, REFUSAL_DOWNGRADE_BITMAPS, AMEND_ERROR_DOWNGRADE_BLOCKED, h->nb_bitmaps, 0,
               0);
        name_bitmaps(planner);
    }
}

/* The feature words of the amended image. */
static void plan_features(const struct planner *planner, struct amend_plan *plan)
{
    const struct qcow2_header *h = &planner->header;
    plan->version = planner->target_version;
    if (plan->version == 2)
        return;
    plan->incompatible_features = h->incompatible_features;
    plan->compatible_features = h->compatible_features & ~QCOW2_COMPATIBLE_LAZY_REFCOUNTS;
    if (planner->target_lazy)
        plan->compatible_features |= QCOW2_COMPATIBLE_LAZY_REFCOUNTS;
    /* "Header", autoclear_features: whoever writes clears the bits it does not know. */
    plan->autoclear_features = h->autoclear_features & QCOW2_AUTOCLEAR_KNOWN;
}

static bool is_downgrade(const struct planner *planner)
{
    return planner->target_version < planner->header.version;
}

/* Judge the image. False: refused. */
static bool judge(struct planner *planner, uint64_t *zero_clusters, uint64_t *allocated)
{
    const struct qcow2_header *h = &planner->header;
    if (!parse_header(planner))
        return false;
    resolve_target(planner);
    if (is_downgrade(planner))
        check_downgrade(planner);
    if (planner->unsound)
        return false;
    planner->l1_entries = h->l1_size;
    check_snapshots(planner);
    bool standard_entries = !(h->incompatible_features & QCOW2_INCOMPATIBLE_EXTENDED_L2);
    if (is_downgrade(planner) && standard_entries && !planner->unsound)
        *zero_clusters = scan_for_downgrade(planner, allocated);
    return planner->verdict->count == 0;
}

/* Stage what has to change outside the header. False: refused. */
static bool plan_tables(struct planner *planner, uint64_t zero_clusters, uint64_t allocated)
{
    uint64_t entries = 2 * planner->l1_entries;
    if ((is_downgrade(planner) && !expand_zero_clusters(planner, zero_clusters, allocated)) ||
        (is_downgrade(planner) && planner->drop_bitmaps && !release_bitmaps(planner)) ||
        (planner->snapshots_needed && !rewrite_snapshots(planner)) || !finish_refcounts(planner))
        return false;
    if (planner->new_snapshots_offset)
        store_be64(planner->workspace->old_header + QCOW2_OFFSET_SNAPSHOTS_OFFSET,
                   planner->new_snapshots_offset);
    if (is_downgrade(planner) && planner->config->flags & AMEND_FLAG_PROGRESS)
        planner->io->progress(planner->io->context, entries, entries);
    return true;
}

static bool plan_amended(struct planner *planner, struct amend_plan *plan, uint64_t zero_clusters,
                         uint64_t allocated)
{
    plan->action = AMEND_ACTION_AMENDED;
    if (planner->target_version == planner->header.version)
        return plan_feature_change(planner, plan);
    return plan_tables(planner, zero_clusters, allocated) && plan_version_change(planner, plan);
}

bool plan_amend(const struct AmendConfig *config, const struct image_io *io,
                struct planner_workspace *workspace, struct amend_plan *plan,
                struct verdict *verdict)
{
    struct planner planner = {
        .config = config,
        .io = io,
        .workspace = workspace,
        .verdict = verdict,
        .end = round_up(io->size, QCOW2_SECTOR_SIZE),
        .work_left = config->work_max,
        .snapshots = {workspace->snapshots, PLANNER_WINDOW_SIZE, INSTAR_PHASE_PREPARE, 0,
                      .loaded = false},
    };
    const struct qcow2_header *h = &planner.header;
    uint64_t zero_clusters = 0, allocated = 0;
    memset(plan, 0, sizeof(*plan));
    verdict->count = verdict->names_size = 0;
    if (!judge(&planner, &zero_clusters, &allocated))
        return false;
    plan_features(&planner, plan);
    if (planner.target_version != h->version || plan->compatible_features != h->compatible_features)
        return plan_amended(&planner, plan, zero_clusters, allocated);
    plan->autoclear_features = h->autoclear_features;
    plan->action = AMEND_ACTION_NOOP;
    plan->atomic = true;
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
    result->resulting_version = plan->version;
    result->resulting_lazy_refcounts =
        plan->compatible_features & QCOW2_COMPATIBLE_LAZY_REFCOUNTS ? 1 : 0;
    result->atomic = plan->atomic;
    result->resulting_incompatible_features = plan->incompatible_features;
    result->resulting_compatible_features = plan->compatible_features;
    result->resulting_autoclear_features = plan->autoclear_features;
}
