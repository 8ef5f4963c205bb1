/* Pure, either side: the option size: how large the disk is, in bytes. docs/qcow2.md says what each step is for. */
#include "amend/bitmap_release.h"
#include "amend/options/option.h"
#include "amend/resize.h"
#include "qcow2/bitmaps.h"
#include "qcow2/geometry.h"
#include "qcow2/qcow2.h"
#include "qcow2/snapshots.h"

static bool is_asked(const struct amendment *amendment)
{
    return amendment->target.size != amendment->image.header.size;
}

static void resolve(struct amendment *amendment, const struct option_value *asked)
{
    if (asked->given)
        amendment->target.size = asked->number;
}

/* The largest disk that an L1 table of the size that every qemu takes can map. */
static uint64_t largest_size(const struct qcow2_header *h)
{
    uint64_t entries = QCOW2_L1_SIZE_MAX / QCOW2_TABLE_ENTRY_SIZE, span = l2_span(h);
    uint64_t most = INT64_MAX & ~(uint64_t)(SECTOR_SIZE - 1);
    return most / span < entries ? most : entries * span;
}

/* Whether a bitmap does for the new size as it is, as it has a table of the same length. */
static bool check_bitmap(void *context, const struct bitmap *bitmap)
{
    struct amendment *amendment = context;
    uint64_t old = bitmap_table_entries(&amendment->image, bitmap, amendment->image.header.size);
    uint64_t new = bitmap_table_entries(&amendment->image, bitmap, amendment->target.size);
    const struct qcow2_header *h = &amendment->image.header;
    struct verdict *verdict = amendment->image.file.verdict;
    bool in_use = bitmap->flags & QCOW2_BITMAP_IN_USE;
    if (!in_use && bitmap->table_entries != old)
        return refuse_bitmaps(&amendment->image); /* no qemu opens it */
    if (!in_use && old == new && amendment->target.size > h->size)
        return true;
    if (amendment->may_drop_bitmaps) {
        amendment->target.drop_bitmaps = true;
        return true;
    }
    return in_use ? refuse(verdict, REFUSAL_BITMAP_IN_USE, AMEND_ERROR_SIZE, h->nb_bitmaps, 0, 0)
                  : refuse(verdict, REFUSAL_SIZE_BITMAPS, AMEND_ERROR_SIZE, h->nb_bitmaps,
                           amendment->target.size, 0);
}

static void check_bitmaps(struct amendment *amendment)
{
    struct qcow2_image *image = &amendment->image;
    bool in_force = image->header.autoclear_features & QCOW2_AUTOCLEAR_BITMAPS;
    if (!image->header.has_bitmaps || !in_force || image->file.verdict->unsound)
        return;
    if (!walk_bitmaps(image, check_bitmap, amendment) && !image->file.verdict->unsound)
        name_bitmaps(image);
    if (amendment->target.drop_bitmaps)
        amendment->target.autoclear_features &= ~QCOW2_AUTOCLEAR_BITMAPS;
}

/* One that does not say how large its disk is has the size of the header. */
static void check_snapshot(void *context, const struct snapshot *snapshot, uint32_t number)
{
    struct amendment *amendment = context;
    if (snapshot->extra_data_size < QCOW2_SNAPSHOT_EXTRA_DATA_V3)
        refuse(amendment->image.file.verdict, REFUSAL_RESIZE_SNAPSHOT_SIZE, AMEND_ERROR_SIZE,
               number, amendment->image.header.size, 0);
}

static void check(struct amendment *amendment)
{
    const struct qcow2_header *h = &amendment->image.header;
    struct verdict *verdict = amendment->image.file.verdict;
    uint64_t size = amendment->target.size;
    bool over_backing = has_backing_file(&amendment->image) && amendment->backing_size > disk_size(h);
    if (!is_asked(amendment))
        return;
    if (size == 0 || size % SECTOR_SIZE || size > largest_size(h))
        refuse(verdict, REFUSAL_SIZE_LIMIT, AMEND_ERROR_SIZE, size, largest_size(h), 0);
    if (size < h->size && !amendment->may_shrink)
        refuse(verdict, REFUSAL_SHRINK_NOT_ALLOWED, AMEND_ERROR_SIZE, size, h->size, 0);
    if (h->version == 2 && h->nb_snapshots)
        refuse(verdict, REFUSAL_RESIZE_V2_SNAPSHOTS, AMEND_ERROR_SIZE, h->nb_snapshots, 0, 0);
    if (h->version == 2 && size > h->size && over_backing)
        refuse(verdict, REFUSAL_GROW_OVER_BACKING_V2, AMEND_ERROR_SIZE, disk_size(h),
               amendment->backing_size, 0);
    if (h->incompatible_features & QCOW2_INCOMPATIBLE_DATA_FILE)
        refuse(verdict, REFUSAL_SIZE_DATA_FILE, AMEND_ERROR_SIZE, 0, 0, 0);
    check_bitmaps(amendment);
    if (h->version == 3 && !verdict->unsound)
        check_snapshots(&amendment->image, check_snapshot, amendment);
}

static void foresee(struct amendment *amendment)
{
    const struct qcow2_header *h = &amendment->image.header;
    bool in_image = !(h->incompatible_features & QCOW2_INCOMPATIBLE_DATA_FILE);
    if (is_asked(amendment) && in_image && amendment->target.size <= largest_size(h))
        check_boundary(&amendment->books, &amendment->target, amendment->backing_size);
}

static bool stage(struct amendment *amendment)
{
    struct resize resize;
    const struct boundary *boundary = &resize.boundary;
    const struct qcow2_header *h = &amendment->image.header;
    if (!is_asked(amendment))
        return true;
    /* What has been given up is known before anything is written. */
    if (amendment->target.drop_bitmaps && !release_bitmaps(&amendment->books))
        return false;
    if (!resize_layer(&amendment->books, &amendment->target, amendment->backing_size, &resize))
        return false;
    bool copied = resize.tail.cluster && resize.tail.shared; /* the last kept entry goes too */
    amendment->kept = (struct kept_layer){
        .l1_entries = boundary->l1_kept,
        .cut_table = resize.cut ? boundary->table : 0,
        .cut_place = boundary->table + (boundary->first - copied) * l2_entry_size(h),
    };
    return true;
}

static struct option_value tell(const struct target *target)
{
    return (struct option_value){.given = true, .number = target->size};
}

const struct option size_option = {
    .key = OPTION_SIZE,
    .kind = OPTION_KIND_NUMBER,
    .resolve = resolve,
    .check = check,
    .foresee = foresee,
    .stage = stage,
    .tell = tell,
};
