/* Pure, either side: the option compat: version 2 or 3. docs/qcow2.md says what each step is for. */
#include "amend/bitmap_release.h"
#include "amend/options/option.h"
#include "amend/snapshot_table.h"
#include "qcow2/bitmaps.h"
#include "qcow2/geometry.h"
#include "qcow2/qcow2.h"

static bool is_downgrade(const struct amendment *amendment)
{
    return amendment->target.version < amendment->image.header.version;
}

static bool is_upgrade(const struct amendment *amendment)
{
    return amendment->target.version > amendment->image.header.version;
}

static void resolve(struct amendment *amendment, const struct option_value *asked)
{
    struct target *target = &amendment->target;
    if (asked->given)
        target->version = asked->number == 2 ? 2 : 3;
    if (target->version == 2)
        target->incompatible_features = target->compatible_features = target->autoclear_features =
            0;
}

/* What version 2 cannot express, as far as the header tells. */
static void check_header(struct amendment *amendment)
{
    struct qcow2_image *image = &amendment->image;
    const struct qcow2_header *h = &image->header;
    struct verdict *verdict = image->file.verdict;
    if (h->refcount_order != QCOW2_REFCOUNT_ORDER_DEFAULT &&
        h->refcount_order <= QCOW2_REFCOUNT_ORDER_MAX)
        refuse(verdict, REFUSAL_DOWNGRADE_REFCOUNT_WIDTH, AMEND_ERROR_REFCOUNT_WIDTH,
               UINT64_C(1) << h->refcount_order, 0, 0);
    if (h->incompatible_features & QCOW2_INCOMPATIBLE_DATA_FILE)
        refuse(verdict, REFUSAL_DOWNGRADE_DATA_FILE, AMEND_ERROR_DOWNGRADE_BLOCKED, 0, 0, 0);
    if (has_extended_l2(h))
        refuse(verdict, REFUSAL_DOWNGRADE_EXTENDED_L2, AMEND_ERROR_DOWNGRADE_BLOCKED, 0, 0, 0);
    amendment->target.drop_bitmaps = h->has_bitmaps;
    if (h->has_bitmaps && !amendment->may_drop_bitmaps) {
        refuse(verdict, REFUSAL_DOWNGRADE_BITMAPS, AMEND_ERROR_DOWNGRADE_BLOCKED, h->nb_bitmaps, 0,
               0);
        name_bitmaps(image);
    }
}

/* What version 2 cannot express of snapshot `number`, and what a downgrade has to follow. */
static void check_snapshot(struct qcow2_image *image, const struct snapshot *snapshot,
                           uint32_t number)
{
    const struct qcow2_header *h = &image->header;
    if (snapshot->disk_size != h->size && snapshot->disk_size != disk_size(h))
        refuse(image->file.verdict, REFUSAL_DOWNGRADE_SNAPSHOT_SIZE, AMEND_ERROR_DOWNGRADE_BLOCKED,
               number, snapshot->disk_size, disk_size(h));
    if (snapshot->vm_state_size > UINT32_MAX)
        refuse(image->file.verdict, REFUSAL_DOWNGRADE_SNAPSHOT_VM_STATE,
               AMEND_ERROR_DOWNGRADE_BLOCKED, number, snapshot->vm_state_size, 0);
    (void)check_l1_table(image, snapshot, number);
}

/* What the snapshot table means for a change of the version. */
struct snapshot_review {
    struct amendment *amendment;
    bool incomplete; /* an entry lacks what version 3 requires */
    uint64_t needed; /* bytes of a table in which none does */
};

static void review_snapshot(void *context, const struct snapshot *snapshot, uint32_t number)
{
    struct snapshot_review *review = context;
    if (is_downgrade(review->amendment))
        check_snapshot(&review->amendment->image, snapshot, number);
    review->incomplete |= snapshot->extra_data_size < QCOW2_SNAPSHOT_EXTRA_DATA_V3;
    review->needed += complete_size(snapshot);
}

static void check(struct amendment *amendment)
{
    struct qcow2_image *image = &amendment->image;
    struct snapshot_review review = {.amendment = amendment};
    bool extended = has_extended_l2(&image->header);
    if (is_downgrade(amendment))
        check_header(amendment);
    if (image->file.verdict->unsound || !(is_downgrade(amendment) || is_upgrade(amendment)))
        return;
    check_snapshots(image, review_snapshot, &review);
    if (is_upgrade(amendment) && review.incomplete)
        amendment->snapshots_needed = review.needed;
    if (!is_downgrade(amendment) || extended || image->file.verdict->unsound)
        return;
    amendment->walked = true;
    scan_for_downgrade(image, &amendment->workspace->zero_tables, &amendment->workspace->few,
                       &amendment->counts);
}

static bool stage(struct amendment *amendment)
{
    struct books *books = &amendment->books;
    struct target *target = &amendment->target;
    if (amendment->snapshots_needed)
        return complete_snapshots(books, amendment->snapshots_needed, &target->snapshots_offset);
    return !is_downgrade(amendment) ||
           /* What has been given up is known before anything is written. */
           ((!target->drop_bitmaps || release_bitmaps(books)) &&
            expand_zero_clusters(books, &amendment->workspace->expansion, &amendment->counts));
}

static struct option_value tell(const struct target *target)
{
    return (struct option_value){.given = true, .number = target->version};
}

const struct option compat_option = {
    .key = OPTION_COMPAT,
    .kind = OPTION_KIND_NUMBER,
    .resolve = resolve,
    .check = check,
    .stage = stage,
    .tell = tell,
};
