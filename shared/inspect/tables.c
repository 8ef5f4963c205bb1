/* Pure, either side: the L1 and L2 tables of the untrusted image, as a check follows them. */
#include "inspect/tables.h"

#include "inspect/compare.h"
#include "inspect/parts.h"
#include "qcow2/bytes.h"
#include "qcow2/geometry.h"
#include "qcow2/qcow2.h"

#define L1_RESERVED UINT64_C(0x7f000000000001ff)
#define L2_RESERVED UINT64_C(0x3f000000000001fe)
#define ALL_ALLOCATED UINT64_C(0xffffffff)

/* How often the progress is told, at most. */
#define PROGRESS_STEPS 256u

/* What the parts of tables are queued with. */
#define TABLE_STARTS 1u
#define TABLE_ACTIVE 2u

enum kind { UNALLOCATED, NORMAL, ZERO_PLAIN, ZERO_ALLOCATED, COMPRESSED };

static bool has_data_file(const struct checking *checking)
{
    return checking->image.header.incompatible_features & QCOW2_INCOMPATIBLE_DATA_FILE;
}

static enum kind kind_of(const struct checking *checking, uint64_t entry)
{
    bool allocated = entry & QCOW2_TABLE_OFFSET_MASK;
    if (entry & QCOW2_L2_COMPRESSED)
        return COMPRESSED;
    if (entry & QCOW2_L2_ZERO && !has_extended_l2(&checking->image.header))
        return allocated ? ZERO_ALLOCATED : ZERO_PLAIN;
    /* "Standard Cluster Descriptor": in a data file, the first cluster has offset 0. */
    return allocated || (has_data_file(checking) && entry & QCOW2_L2_COPIED) ? NORMAL : UNALLOCATED;
}

static bool count_compressed(struct checking *checking, uint64_t entry, uint64_t subclusters,
                             bool active)
{
    uint32_t shift = 62 - (checking->image.header.cluster_bits - 8);
    uint64_t offset = entry & ((UINT64_C(1) << shift) - 1);
    uint64_t mask = (UINT64_C(1) << (checking->image.header.cluster_bits - 8)) - 1;
    uint64_t size = ((entry >> shift & mask) + 1) * SECTOR_SIZE - offset % SECTOR_SIZE;
    if (entry & QCOW2_L2_COPIED)
        find(checking, CHECK_COMPRESSED_COPIED, offset, 0, 0);
    if (has_data_file(checking) || subclusters) {
        find(checking,
             has_data_file(checking) ? CHECK_COMPRESSED_DATA_FILE : CHECK_COMPRESSED_SUBCLUSTERS,
             entry, 0, 0);
        return true;
    }
    if (active && checking->once) {
        checking->result->allocated_clusters++;
        checking->result->compressed_clusters++;
        checking->result->fragmented_clusters++;
    }
    return count_region(checking, offset, size, AMEND_USE_COMPRESSED);
}

static bool count_cluster(struct checking *checking, uint64_t entry, uint64_t subclusters,
                          bool active)
{
    uint64_t offset = entry & QCOW2_TABLE_OFFSET_MASK;
    uint32_t size = checking->image.header.cluster_size;
    if (active && has_data_file(checking))
        checking->doubted |= !(entry & QCOW2_L2_COPIED);
    else if (active)
        note_flag(checking, offset, entry & QCOW2_L2_COPIED);
    if (subclusters >> 32 & subclusters)
        find(checking, CHECK_SUBCLUSTERS, offset, subclusters, 0);
    if (offset % size)
        find(checking, CHECK_CLUSTER_UNALIGNED, offset, entry, 0);
    if (active && checking->once) {
        checking->result->allocated_clusters++;
        checking->result->fragmented_clusters += checking->next && offset != checking->next;
        checking->next = offset + size;
    }
    return has_data_file(checking) || count_region(checking, offset, size, AMEND_USE_DATA);
}

/* Count one entry, whatever it is. False: refused. */
static bool count_entry(struct checking *checking, uint64_t entry, uint64_t subclusters,
                        bool active)
{
    enum kind kind = kind_of(checking, entry);
    if (kind != COMPRESSED && entry & L2_RESERVED)
        find(checking, CHECK_L2_RESERVED, entry, 0, 0);
    if (kind == COMPRESSED)
        return count_compressed(checking, entry, subclusters, active);
    if (kind == NORMAL || kind == ZERO_ALLOCATED)
        return count_cluster(checking, entry, subclusters, active);
    if (subclusters & ALL_ALLOCATED)
        find(checking, CHECK_UNALLOCATED_SUBCLUSTERS, entry, subclusters, 0);
    return true;
}

/* Count entries from `at` on as count_entry() would, up to one that is not plain: that names a cluster
 * which this window does not have, or which has something other than data in it. Nearly all entries
 * are plain, and this is quick. False: refused. */
static bool count_plain(struct checking *checking, const uint8_t *table, uint32_t *at,
                        uint32_t size, bool active)
{
    const struct qcow2_header *h = &checking->image.header;
    const struct counts counts = checking->counts;
    uint16_t *numbers = (uint16_t *)(void *)counts.memory;
    uint32_t bits = h->cluster_bits;
    uint64_t others = ~(QCOW2_L2_COPIED | (QCOW2_TABLE_OFFSET_MASK >> bits << bits));
    uint64_t largest = largest_refcount(h->refcount_order), cluster_size = h->cluster_size;
    uint64_t end = counts.first + counts.size;
    uint64_t next = checking->next, counted = 0, fragmented = 0;
    end = end < checking->file_clusters ? end : checking->file_clusters;
    for (; *at < size; *at += QCOW2_TABLE_ENTRY_SIZE) {
        uint64_t entry = load_be64(table + *at), offset = entry & ~QCOW2_L2_COPIED;
        uint64_t cluster = offset >> bits;
        if (entry == 0)
            continue;
        if (entry & others || cluster < counts.first || cluster >= end)
            break;
        uint64_t i = cluster - counts.first;
        uint8_t use = counts.uses[i];
        if (numbers[i] && ((use & USE_MASK) != AMEND_USE_DATA || numbers[i] == largest))
            break;
        numbers[i] = (uint16_t)(numbers[i] + 1);
        uint32_t said = entry & QCOW2_L2_COPIED ? SAID_ALONE : SAID_SHARED;
        counts.uses[i] = (uint8_t)(use | AMEND_USE_DATA | (active ? said : 0));
        counted++;
        fragmented += next && offset != next;
        next = offset + cluster_size;
    }
    if (active && checking->once) {
        checking->result->allocated_clusters += counted;
        checking->result->fragmented_clusters += fragmented;
        checking->next = next;
    }
    return spend(&checking->image.file.budget, counted * COUNT_WORK);
}

static bool count_entries(void *context, const uint8_t *table, uint32_t size, uint64_t tag)
{
    struct checking *checking = context;
    uint32_t step = l2_entry_size(&checking->image.header);
    bool active = tag & TABLE_ACTIVE;
    bool plain = step == QCOW2_TABLE_ENTRY_SIZE && !has_data_file(checking) &&
                 !checking->counts.wide;
    checking->next = tag & TABLE_STARTS ? 0 : checking->next;
    if (!spend(&checking->image.file.budget, size / QCOW2_TABLE_ENTRY_SIZE * L2_WORK))
        return false;
    for (uint32_t at = 0; at < size; at += step) {
        if (plain && !count_plain(checking, table, &at, size, active))
            return false;
        if (at == size)
            break;
        uint64_t entry = load_be64(table + at);
        uint64_t subclusters =
            step > QCOW2_TABLE_ENTRY_SIZE ? load_be64(table + at + QCOW2_TABLE_ENTRY_SIZE) : 0;
        if ((entry | subclusters) && !count_entry(checking, entry, subclusters, active))
            return false;
    }
    return true;
}

/* Whether the cluster's refcount is 1, after compare_counts(); `known` if this window is to say so. */
static bool is_alone(struct checking *checking, uint64_t offset, bool *alone, uint64_t *refcount,
                     bool *known)
{
    uint64_t cluster = offset >> checking->image.header.cluster_bits;
    bool compared = cluster < checking->clusters;
    *known = compared && is_counted(&checking->counts, cluster);
    if (*known) {
        *refcount = get_count(&checking->counts, cluster);
        *known = *refcount != REFCOUNT_UNKNOWN;
    } else if (!compared && checking->once) {
        *known = true;
        if (!get_refcount(&checking->refcounts, offset, refcount))
            return false;
    }
    *alone = *refcount == 1;
    return true;
}

static bool check_flag(struct checking *checking, uint32_t kind, uint64_t index, uint64_t entry)
{
    uint64_t offset = entry & QCOW2_TABLE_OFFSET_MASK, refcount = 1;
    bool alone = true, known = checking->once;
    if (!(kind == CHECK_CLUSTER_COPIED && has_data_file(checking)) &&
        !is_alone(checking, offset, &alone, &refcount, &known))
        return false;
    if (known && alone != !!(entry & QCOW2_L2_COPIED))
        find(checking, kind, index, entry, refcount);
    return true;
}

static bool check_entries(void *context, const uint8_t *table, uint32_t size, uint64_t tag)
{
    struct checking *checking = context;
    uint32_t step = l2_entry_size(&checking->image.header);
    (void)tag;
    if (!spend(&checking->image.file.budget, size))
        return false;
    for (uint32_t at = 0; at < size; at += step) {
        uint64_t entry = load_be64(table + at);
        enum kind kind = entry ? kind_of(checking, entry) : UNALLOCATED;
        if ((kind == NORMAL || kind == ZERO_ALLOCATED) &&
            !check_flag(checking, CHECK_CLUSTER_COPIED, 0, entry))
            return false;
    }
    return true;
}

static bool add_table(struct parts *parts, uint64_t offset, uint32_t size, uint64_t tag)
{
    for (uint32_t at = 0; at < size; at += PART_MAX)
        if (!add_part(parts, offset + at, size - at < PART_MAX ? size - at : PART_MAX,
                      tag | (at ? 0 : TABLE_STARTS)))
            return false;
    return true;
}

/* Count the L2 table of an entry, and find whether it names one. False: refused. */
static bool count_l1_entry(struct checking *checking, uint64_t index, uint64_t entry, bool active,
                           bool *named)
{
    uint64_t offset = entry & QCOW2_TABLE_OFFSET_MASK;
    *named = entry != 0;
    if (!*named)
        return true;
    if (entry & L1_RESERVED)
        find(checking, CHECK_L1_RESERVED, index, entry, 0);
    if (offset % checking->image.header.cluster_size)
        find(checking, CHECK_L2_TABLE_UNALIGNED, index, entry, 0);
    if (active)
        note_flag(checking, offset, entry & QCOW2_L2_COPIED);
    return count_region(checking, offset, checking->image.header.cluster_size, AMEND_USE_L2_TABLE);
}

/* Compare the flag of an entry, and find whether it names a table whose refcount is known: qemu-img
 * looks at the flags of no other. False: refused. */
static bool check_l1_entry(struct checking *checking, uint64_t index, uint64_t entry, bool *named)
{
    uint64_t offset = entry & QCOW2_TABLE_OFFSET_MASK;
    bool unreadable = false;
    if (!offset || !is_unreadable(checking, offset, &unreadable))
        return !offset;
    *named = !unreadable;
    return unreadable || check_flag(checking, CHECK_L2_TABLE_COPIED, index, entry);
}

/* One more L1 entry of the count is done. */
static void tell_progress(struct checking *checking)
{
    uint64_t step = checking->to_walk / PROGRESS_STEPS + 1;
    if (checking->to_walk && checking->walked++ % step == 0 && checking->walked <= checking->to_walk)
        report_progress(&checking->image.file, checking->walked, checking->to_walk);
}

static bool walk(struct checking *checking, uint64_t offset, uint64_t entries, bool active,
                 visit_part *visit)
{
    uint8_t *table = checking->image.memory->table;
    struct parts parts = {.image = &checking->image, .visit = visit, .context = checking};
    for (uint64_t i = 0; i < entries; i++) {
        uint64_t at = i * QCOW2_TABLE_ENTRY_SIZE % TABLE_SIZE;
        uint64_t left = (entries - i) * QCOW2_TABLE_ENTRY_SIZE;
        uint32_t part = left < TABLE_SIZE ? (uint32_t)left : TABLE_SIZE;
        if (at == 0 && (!spend(&checking->image.file.budget, L1_WORK) ||
                        !read_image(&checking->image.file, INSTAR_PHASE_PREPARE,
                                    offset + i * QCOW2_TABLE_ENTRY_SIZE, table, part)))
            return false;
        uint64_t entry = load_be64(table + at);
        bool named = false;
        if (visit == count_entries)
            tell_progress(checking);
        if (!(visit == count_entries ? count_l1_entry(checking, i, entry, active, &named)
                                     : check_l1_entry(checking, i, entry, &named)))
            return false;
        if (named && !add_table(&parts, entry & QCOW2_TABLE_OFFSET_MASK,
                                checking->image.header.cluster_size, active ? TABLE_ACTIVE : 0))
            return false;
    }
    return flush_parts(&parts);
}

bool count_table(struct checking *checking, uint64_t offset, uint64_t entries, bool active)
{
    uint32_t use = active ? AMEND_USE_L1_TABLE : AMEND_USE_SNAPSHOT_L1_TABLE;
    return entries == 0 ||
           (count_region(checking, offset, entries * QCOW2_TABLE_ENTRY_SIZE, use) &&
            walk(checking, offset, entries, active, count_entries));
}

bool check_flags(struct checking *checking)
{
    const struct qcow2_header *h = &checking->image.header;
    return !checking->doubted ||
           walk(checking, h->l1_table_offset, h->l1_size, true, check_entries);
}
