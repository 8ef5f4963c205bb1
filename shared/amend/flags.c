/* Pure, either side: who is left alone with a cluster of the untrusted image gets OFLAG_COPIED. */
#include "amend/flags.h"

#include "amend/change.h"
#include "qcow2/bytes.h"
#include "qcow2/geometry.h"
#include "qcow2/overlap.h"
#include "qcow2/qcow2.h"
#include "qcow2/walk.h"

/* What a visit works with. */
struct flagging {
    struct books *books;
    const struct kept_layer *kept;
    bool may_change_entries;
};

static bool lacks_flag(const uint8_t *entry)
{
    uint64_t value = load_be64(entry);
    /* A zero cluster has one too; a downgrade leaves none, unless tables are each other. */
    return (value & QCOW2_TABLE_OFFSET_MASK) && !(value & (QCOW2_L2_COPIED | QCOW2_L2_COMPRESSED));
}

/* Whether the cluster has had other users, and has none any more. */
static bool is_left_alone(struct books *books, uint64_t cluster, bool *alone)
{
    uint64_t before, after;
    if (!get_final_refcount(books, cluster, &after) ||
        !get_refcount(&books->counts, cluster, &before))
        return false;
    *alone = after == 1 && before > 1;
    return true;
}

static bool is_cut(const struct kept_layer *kept, const struct qcow2_image *image, uint64_t place)
{
    return kept->cut_table && place >= kept->cut_place &&
           cluster_of(image, place) == kept->cut_table;
}

/* "OFLAG_COPIED": set in the active L1 and L2 tables if and only if the refcount is 1. */
static bool flag_entry(struct walk *walk, uint64_t place, uint8_t *entry)
{
    const struct flagging *flagging = walk->context;
    uint64_t value = load_be64(entry), cluster = value & QCOW2_TABLE_OFFSET_MASK;
    bool alone, extended = has_extended_l2(&walk->image->header);
    if (is_cut(flagging->kept, walk->image, place) || (extended && place & QCOW2_TABLE_ENTRY_SIZE))
        return true; /* dropped, or the second half of an entry */
    if (!is_cluster(walk->image, cluster))
        return true; /* newly taken, or not sound before */
    if (!is_left_alone(flagging->books, cluster, &alone))
        return false;
    if (alone && (!flagging->may_change_entries || value & QCOW2_L2_ZERO))
        return refuse_overlap(walk->image, cluster, AMEND_USE_DATA, AMEND_USE_UNKNOWN);
    if (alone)
        store_be64(entry, value | QCOW2_L2_COPIED);
    return true;
}

static bool flag_part(struct walk *walk, const struct io_range *part)
{
    const struct flagging *flagging = walk->context;
    uint64_t end = part->offset + part->length;
    for (uint64_t table = cluster_of(walk->image, part->offset); table < end;
         table += walk->image->header.cluster_size) {
        bool alone;
        if (table == flagging->kept->cut_table)
            continue;
        if (!is_left_alone(flagging->books, table, &alone))
            return false;
        if (alone)
            return refuse_overlap(walk->image, table, AMEND_USE_L2_TABLE, AMEND_USE_UNKNOWN);
    }
    return change_part(walk, part, lacks_flag, flag_entry);
}

bool set_copied_flags(struct books *books, const struct kept_layer *kept, bool may_change_entries)
{
    struct flagging flagging = {books, kept, may_change_entries};
    struct walk walk = {
        .image = books->image,
        .phase = INSTAR_PHASE_FLAGS + 1,
        .changes.phase = INSTAR_PHASE_FLAGS,
        .fills_gaps = true,
        .active_entries = kept->l1_entries,
        .visit = flag_part,
        .context = &flagging,
    };
    return kept->l1_entries == 0 || walk_tables(&walk);
}
