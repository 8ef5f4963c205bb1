/* Pure, either side: sets the untrusted image's flags right by what has been counted in it. */
#include "repair/mend_flags.h"

#include "amend/change.h"
#include "qcow2/bytes.h"
#include "qcow2/geometry.h"
#include "qcow2/overlap.h"
#include "qcow2/qcow2.h"
#include "qcow2/walk.h"

/* What a visit works with. */
struct mending {
    const struct counts *counts;
    bool has_data_file;
};

/* The entry as it has to be; the cluster that it names is in the image, and has been counted. */
static uint64_t mended(const struct walk *walk, uint64_t entry, bool alone)
{
    const struct mending *mending = walk->context;
    uint64_t cluster = (entry & QCOW2_TABLE_OFFSET_MASK) >> walk->image->header.cluster_bits;
    alone |= is_counted(mending->counts, cluster) && get_count(mending->counts, cluster) == 1;
    return alone ? entry | QCOW2_L2_COPIED : entry & ~QCOW2_L2_COPIED;
}

static bool may_be_flagged(const uint8_t *entry)
{
    uint64_t value = load_be64(entry);
    return value & QCOW2_TABLE_OFFSET_MASK && !(value & QCOW2_L2_COMPRESSED);
}

static bool mend_entry(struct walk *walk, uint64_t place, uint8_t *entry)
{
    const struct mending *mending = walk->context;
    if (has_extended_l2(&walk->image->header) && place & QCOW2_TABLE_ENTRY_SIZE)
        return true; /* the second half of an entry */
    /* No cluster of a data file is shared. */
    store_be64(entry, mended(walk, load_be64(entry), mending->has_data_file));
    return true;
}

static bool mend_part(struct walk *walk, const struct io_range *part)
{
    return change_part(walk, part, may_be_flagged, mend_entry);
}

/* Mend a sector of the active L1 table, which has `bytes` of entries from here on. Returns whether
 * it has changed. */
static bool mend_l1_sector(const struct walk *walk, uint8_t *sector, uint64_t bytes)
{
    bool changed = false;
    for (uint64_t at = 0; at < bytes && at < SECTOR_SIZE; at += QCOW2_TABLE_ENTRY_SIZE) {
        uint64_t before = load_be64(sector + at), after = mended(walk, before, false);
        if (!(before & QCOW2_TABLE_OFFSET_MASK) || before == after)
            continue;
        store_be64(sector + at, after);
        changed = true;
    }
    return changed;
}

/* False: refused. */
static bool mend_l1_table(struct walk *walk)
{
    const struct qcow2_header *h = &walk->image->header;
    struct image *file = &walk->image->file;
    uint64_t bytes = (uint64_t)h->l1_size * QCOW2_TABLE_ENTRY_SIZE;
    uint8_t *part = walk->image->memory->table;
    for (uint64_t at = 0; at < bytes; at += SECTOR_SIZE) {
        uint64_t left = bytes - at, offset = h->l1_table_offset + at;
        uint8_t *sector = part + at % TABLE_SIZE;
        if (at % TABLE_SIZE == 0 &&
            (!flush_writes(file, &walk->changes) ||
             !read_image(file, INSTAR_PHASE_PREPARE, offset, part,
                         left < TABLE_SIZE ? (uint32_t)left : TABLE_SIZE)))
            return false;
        if (mend_l1_sector(walk, sector, left) &&
            !add_write(file, &walk->changes, offset, sector, SECTOR_SIZE))
            return false;
    }
    return flush_writes(file, &walk->changes);
}

bool mend_flags(struct qcow2_image *image, const struct counts *counts)
{
    struct mending mending = {
        .counts = counts,
        .has_data_file = image->header.incompatible_features & QCOW2_INCOMPATIBLE_DATA_FILE,
    };
    struct walk walk = {
        .image = image,
        .phase = INSTAR_PHASE_MAPPING,
        .changes.phase = INSTAR_PHASE_MAPPING,
        .visit = mend_part,
        .context = &mending,
    };
    return image->header.l1_size == 0 || (mend_l1_table(&walk) && walk_tables(&walk));
}
