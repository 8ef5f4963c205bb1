/* Pure, either side: the L1 and L2 tables of the untrusted image, as a check follows them. */
#include "inspect/tables.h"

#include <string.h>

#include "qcow2/bytes.h"
#include "qcow2/geometry.h"
#include "qcow2/qcow2.h"

#define L1_RESERVED UINT64_C(0x7f000000000001ff)
#define L2_RESERVED UINT64_C(0x3f000000000001fe)
#define ALL_ALLOCATED UINT64_C(0xffffffff)
#define WHOLE_BATCH (BATCH_SIZE / 2)

typedef bool visit_table(struct checking *checking, const uint8_t *table, uint32_t size,
                         bool active, bool starts);

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
    uint64_t size = ((entry >> shift & mask) + 1) * QCOW2_SECTOR_SIZE - offset % QCOW2_SECTOR_SIZE;
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
    if (subclusters >> 32 & subclusters) {
        find(checking, CHECK_SUBCLUSTERS, offset, subclusters, 0);
        return true;
    }
    if (offset % size)
        find(checking, CHECK_CLUSTER_UNALIGNED, offset, entry, 0);
    if (active && checking->once) {
        checking->result->allocated_clusters++;
        checking->result->fragmented_clusters += checking->next && offset != checking->next;
        checking->next = offset + size;
    }
    return has_data_file(checking) || count_region(checking, offset, size, AMEND_USE_DATA);
}

static bool count_entries(struct checking *checking, const uint8_t *table, uint32_t size,
                          bool active, bool starts)
{
    uint32_t step = l2_entry_size(&checking->image.header);
    checking->next = starts ? 0 : checking->next;
    if (!spend(&checking->image.file.budget, size))
        return false;
    for (uint32_t at = 0; at < size; at += step) {
        uint64_t entry = load_be64(table + at);
        uint64_t subclusters =
            step > QCOW2_TABLE_ENTRY_SIZE ? load_be64(table + at + QCOW2_TABLE_ENTRY_SIZE) : 0;
        if (!(entry | subclusters))
            continue;
        enum kind kind = kind_of(checking, entry);
        if (kind != COMPRESSED && entry & L2_RESERVED)
            find(checking, CHECK_L2_RESERVED, entry, 0, 0);
        bool good = true;
        if (kind == COMPRESSED)
            good = count_compressed(checking, entry, subclusters, active);
        else if (kind == NORMAL || kind == ZERO_ALLOCATED)
            good = count_cluster(checking, entry, subclusters, active);
        else if (subclusters & ALL_ALLOCATED)
            find(checking, CHECK_UNALLOCATED_SUBCLUSTERS, entry, subclusters, 0);
        if (!good)
            return false;
    }
    return true;
}

/* Whether the cluster's refcount is 1, after compare_counts(). False: refused, or not in this window. */
static bool is_alone(struct checking *checking, uint64_t offset, bool *alone, uint64_t *refcount,
                     bool *known)
{
    uint64_t cluster = offset >> checking->image.header.cluster_bits;
    *known = is_counted(&checking->counts, cluster);
    if (*known) {
        *refcount = get_count(&checking->counts, cluster);
        *known = *refcount != REFCOUNT_UNKNOWN;
    } else if (cluster >= checking->file_clusters + 1 && checking->once) {
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

static bool check_entries(struct checking *checking, const uint8_t *table, uint32_t size,
                          bool active, bool starts)
{
    uint32_t step = l2_entry_size(&checking->image.header);
    (void)active;
    (void)starts;
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

/* Read the L2 tables that are queued, and visit them. False: refused. */
static bool flush_queue(struct checking *checking, bool active, visit_table *visit)
{
    uint32_t count = checking->queued;
    uint64_t end = checking->image.file.end;
    struct io_range present[IO_RANGES_MAX] = {{0, 0, 0}};
    uint32_t reads = 0;
    checking->queued = 0;
    checking->queue_bytes = 0;
    for (uint32_t i = 0; i < count; i++) {
        struct io_range range = checking->queue[i];
        uint64_t there = range.offset < end ? end - range.offset : 0;
        there = there < range.length ? there : range.length;
        memset(range.buffer + there, 0, range.length - there);
        range.length = there;
        if (there)
            present[reads++] = range;
    }
    if (!read_ranges(&checking->image.file, INSTAR_PHASE_PREPARE, present, reads))
        return false;
    for (uint32_t i = 0; i < count; i++) {
        const struct io_range *range = &checking->queue[i];
        if (!visit(checking, range->buffer, (uint32_t)range->length, active, checking->starts[i]))
            return false;
    }
    return true;
}

static bool queue_table(struct checking *checking, uint64_t offset, bool active, visit_table *visit)
{
    uint32_t left = checking->image.header.cluster_size;
    bool starts = true;
    while (left) {
        uint32_t part = left < WHOLE_BATCH ? left : WHOLE_BATCH;
        if ((checking->queued == IO_RANGES_MAX || checking->queue_bytes + part > BATCH_SIZE) &&
            !flush_queue(checking, active, visit))
            return false;
        checking->starts[checking->queued] = starts;
        checking->queue[checking->queued++] = (struct io_range){
            offset, part, checking->image.memory->batch + checking->queue_bytes};
        checking->queue_bytes += part;
        offset += part;
        left -= part;
        starts = false;
    }
    return true;
}

static bool count_l2_table(struct checking *checking, uint64_t index, uint64_t entry)
{
    uint64_t offset = entry & QCOW2_TABLE_OFFSET_MASK;
    if (entry & L1_RESERVED)
        find(checking, CHECK_L1_RESERVED, index, entry, 0);
    if (offset % checking->image.header.cluster_size)
        find(checking, CHECK_L2_TABLE_UNALIGNED, index, entry, 0);
    return count_region(checking, offset, checking->image.header.cluster_size, AMEND_USE_L2_TABLE);
}

static bool walk(struct checking *checking, uint64_t offset, uint64_t entries, bool active,
                 visit_table *visit)
{
    uint8_t *table = checking->image.memory->table;
    for (uint64_t i = 0; i < entries; i++) {
        uint64_t at = i * QCOW2_TABLE_ENTRY_SIZE % TABLE_SIZE;
        uint64_t left = (entries - i) * QCOW2_TABLE_ENTRY_SIZE;
        uint32_t part = left < TABLE_SIZE ? (uint32_t)left : TABLE_SIZE;
        if (at == 0 && !read_image(&checking->image.file, INSTAR_PHASE_PREPARE,
                                   offset + i * QCOW2_TABLE_ENTRY_SIZE, table, part))
            return false;
        uint64_t entry = load_be64(table + at);
        bool counts = visit == count_entries;
        if (counts ? !entry : !(entry & QCOW2_TABLE_OFFSET_MASK))
            continue;
        if (!(counts ? count_l2_table(checking, i, entry)
                     : check_flag(checking, CHECK_L2_TABLE_COPIED, i, entry)) ||
            !queue_table(checking, entry & QCOW2_TABLE_OFFSET_MASK, active, visit))
            return false;
    }
    return flush_queue(checking, active, visit);
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
    return walk(checking, h->l1_table_offset, h->l1_size, true, check_entries);
}
