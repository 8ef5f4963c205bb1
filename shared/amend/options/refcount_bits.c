/* Pure, either side: the option refcount_bits: refcounts of 1 to 64 bits; version 2 has 16 only. */
#include "amend/old_counts.h"
#include "amend/options/option.h"
#include "amend/recode.h"
#include "qcow2/qcow2.h"

static bool is_changed(const struct amendment *amendment)
{
    return amendment->target.refcount_order != amendment->image.header.refcount_order;
}

static void resolve(struct amendment *amendment, const struct option_value *asked)
{
    struct target *target = &amendment->target;
    uint32_t order = 0;
    while (order < QCOW2_REFCOUNT_ORDER_MAX && UINT64_C(1) << order < asked->number)
        order++;
    if (asked->given)
        target->refcount_order = order;
    if (asked->given && target->version == 2 && order != QCOW2_REFCOUNT_ORDER_DEFAULT) {
        refuse(amendment->image.file.verdict, REFUSAL_REFCOUNT_BITS_V2, AMEND_ERROR_REFCOUNT_WIDTH,
               UINT64_C(1) << order, 0, 0);
        target->refcount_order = QCOW2_REFCOUNT_ORDER_DEFAULT;
    }
}

/* The clusters that another change takes and gives up are counted in the old refcounts. */
static void check(struct amendment *amendment)
{
    if (is_changed(amendment) && amendment->snapshots_needed)
        refuse(amendment->image.file.verdict, REFUSAL_REFCOUNT_BITS_APART,
               AMEND_ERROR_REFCOUNT_WIDTH, amendment->image.header.nb_snapshots, 0, 0);
}

static void foresee(struct amendment *amendment)
{
    struct books *books = &amendment->books;
    struct old_counts old;
    if (!is_changed(amendment) || amendment->snapshots_needed || !expect_clusters(books, 0) ||
        !open_old_counts(&old, &books->counts))
        return;
    const struct count_source source = old_counts_source(&old);
    (void)fits_width(&amendment->image, &source, amendment->target.refcount_order);
}

static bool stage(struct amendment *amendment)
{
    struct books *books = &amendment->books;
    struct old_counts old;
    struct refcount_table table;
    if (!is_changed(amendment))
        return true;
    if (!expect_clusters(books, 0) || !open_old_counts(&old, &books->counts))
        return false;
    const struct count_source source = old_counts_source(&old);
    if (!recode(&amendment->image, &amendment->workspace->recode, &source,
                amendment->target.refcount_order, &table))
        return false;
    amendment->target.refcount_table_offset = table.offset;
    amendment->target.refcount_table_clusters = table.clusters;
    return true;
}

static struct option_value tell(const struct target *target)
{
    return (struct option_value){.given = true, .number = UINT64_C(1) << target->refcount_order};
}

const struct option refcount_bits_option = {
    .key = OPTION_REFCOUNT_BITS,
    .kind = OPTION_KIND_NUMBER,
    .resolve = resolve,
    .check = check,
    .foresee = foresee,
    .stage = stage,
    .tell = tell,
};
