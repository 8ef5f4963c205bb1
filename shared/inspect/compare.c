/* Pure, either side: compares what a check has counted with the refcounts of the untrusted image. */
#include "inspect/compare.h"

#include "bits.h"
#include "inspect/parts.h"
#include "qcow2/bytes.h"
#include "qcow2/qcow2.h"

/* A row of counts that are 1; and of refcounts, 16 bits wide, as the image has them. */
#define ROW_OF_COUNTS UINT64_C(0x0001000100010001)
#define ROW_OF_REFCOUNTS UINT64_C(0x0100010001000100)
#define ROW_OF_SHARED (SAID_SHARED * 0x01010101u)

bool read_entry(struct checking *checking, uint64_t index, uint64_t *entry)
{
    const uint8_t *raw = look(&checking->image.file, &checking->refcounts.table,
                              checking->refcounts.table_offset + index * QCOW2_TABLE_ENTRY_SIZE,
                              QCOW2_TABLE_ENTRY_SIZE);
    if (raw)
        *entry = load_be64(raw);
    return raw;
}

/* Whether a block cannot be read where this entry of the refcount table says that it is. */
static bool is_no_place(const struct checking *checking, uint64_t entry)
{
    uint64_t offset = entry & ~QCOW2_REFCOUNT_TABLE_RESERVED;
    return offset % checking->image.header.cluster_size || offset > INT64_MAX;
}

bool is_unreadable(struct checking *checking, uint64_t offset, bool *unreadable)
{
    uint64_t cluster = offset >> checking->image.header.cluster_bits;
    uint64_t index = cluster / entries_per_block(&checking->image), entry = 0;
    bool read =
        index >= checking->refcounts.table_entries || read_entry(checking, index, &entry);
    *unreadable = read && is_no_place(checking, entry);
    return read;
}

/* Compare a count with the refcount, which then takes its place, and flags with that. */
static void compare_cluster(struct checking *checking, uint64_t cluster, uint64_t refcount)
{
    struct counts *counts = &checking->counts;
    uint64_t count = get_count(counts, cluster);
    if (refcount || count)
        checking->highest = cluster;
    if (refcount < count)
        find(checking, CHECK_CLUSTER_REFCOUNT, cluster, refcount, count);
    else if (refcount > count)
        find(checking, CHECK_CLUSTER_LEAKED, cluster, refcount, count);
    set_count(counts, cluster, refcount > 2 ? 2 : (uint32_t)refcount);
    if (*use_of(counts, cluster) & (refcount == 1 ? SAID_SHARED : SAID_ALONE))
        checking->doubted = true;
}

/* Whether there is nothing to find in a row of clusters, none or each of which has one user. */
static bool is_plain_row(struct checking *checking, uint64_t cluster, const uint8_t *refcounts)
{
    struct counts *counts = &checking->counts;
    uint64_t i = cluster - counts->first;
    uint64_t row = *(const uint64_t *)(const void *)(counts->memory + i * sizeof(uint16_t));
    uint64_t stored = *(const uint64_t *)(const void *)refcounts;
    uint32_t uses = *(const uint32_t *)(const void *)(counts->uses + i);
    if (row == ROW_OF_COUNTS && stored == ROW_OF_REFCOUNTS && !(uses & ROW_OF_SHARED)) {
        checking->highest = cluster + COUNTS_ROW - 1;
        return true;
    }
    return !(row | stored | uses);
}

/* Compare clusters up to `end`; the refcounts are of the first one on. */
static void compare_clusters(struct checking *checking, uint64_t first, uint64_t end,
                             const uint8_t *refcounts)
{
    uint32_t order = checking->image.header.refcount_order;
    bool rows = order == QCOW2_REFCOUNT_ORDER_DEFAULT;
    for (uint64_t i = 0; i < end - first; i++) {
        while (rows && i % COUNTS_ROW == 0 && end - first - i >= COUNTS_ROW &&
               is_plain_row(checking, first + i, refcounts + i * sizeof(uint16_t)))
            i += COUNTS_ROW;
        if (i < end - first)
            compare_cluster(checking, first + i, load_refcount(refcounts, i, order));
    }
}

static uint64_t end_of_counts(const struct checking *checking)
{
    uint64_t end = checking->counts.first + checking->counts.size;
    return end < checking->clusters ? end : checking->clusters;
}

/* Compare what a part of a refcount block is about: clusters from `first` on. */
static bool compare_part(void *context, const uint8_t *refcounts, uint32_t size, uint64_t first)
{
    struct checking *checking = context;
    uint64_t end = first + (size * UINT64_C(8) >> checking->image.header.refcount_order);
    uint64_t limit = end_of_counts(checking);
    compare_clusters(checking, first, end < limit ? end : limit, refcounts);
    return true;
}

/* Compare clusters whose refcount block is none, or cannot be read. */
static void compare_without(struct checking *checking, uint64_t first, uint64_t end,
                            bool unreadable)
{
    for (uint64_t cluster = first; cluster < end; cluster++) {
        if (!unreadable) {
            compare_cluster(checking, cluster, 0);
            continue;
        }
        find(checking, CHECK_BLOCK_UNREADABLE, cluster, 0, 0);
        set_count(&checking->counts, cluster, REFCOUNT_UNKNOWN);
    }
}

/* Compare clusters of one refcount block, or have them compared when it is read. False: refused. */
static bool compare_block(struct checking *checking, struct parts *parts, uint64_t first,
                          uint64_t end, uint64_t entry)
{
    uint32_t order = checking->image.header.refcount_order;
    uint64_t offset = entry & ~QCOW2_REFCOUNT_TABLE_RESERVED;
    bool unreadable = is_no_place(checking, entry);
    if (unreadable || !offset) {
        if (!flush_parts(parts))
            return false;
        compare_without(checking, first, end, unreadable);
        return true;
    }
    offset += (first % entries_per_block(&checking->image) << order) / 8;
    uint64_t bytes = round_up((end - first) << order, UINT64_C(8) * SECTOR_SIZE) / 8;
    for (uint64_t at = 0; at < bytes; at += PART_MAX)
        if (!add_part(parts, offset + at, bytes - at < PART_MAX ? (uint32_t)(bytes - at) : PART_MAX,
                      first + (at * 8 >> order)))
            return false;
    return true;
}

bool compare_counts(struct checking *checking)
{
    uint64_t per_block = entries_per_block(&checking->image), end = end_of_counts(checking);
    struct parts parts = {.image = &checking->image, .visit = compare_part, .context = checking};
    for (uint64_t cluster = checking->counts.first; cluster < end;) {
        uint64_t index = cluster / per_block, next = (index + 1) * per_block, entry = 0;
        next = next < end ? next : end;
        if (!spend(&checking->image.file.budget, (next - cluster) * COUNT_WORK) ||
            (index < checking->refcounts.table_entries && !read_entry(checking, index, &entry)) ||
            !compare_block(checking, &parts, cluster, next, entry))
            return false;
        cluster = next;
    }
    return flush_parts(&parts);
}
