/* Pure, either side: what a check of the untrusted image finds, and which clusters it has come across. */
#include "inspect/checking.h"

#include <string.h>

/* Whether a finding belongs to a cluster, which one window has; else it is told in the first one. */
static bool is_of_window(uint32_t kind)
{
    return kind == CHECK_REFCOUNT_OVERFLOW || kind == CHECK_BLOCK_REFCOUNT ||
           kind == CHECK_CLUSTER_REFCOUNT || kind == CHECK_CLUSTER_LEAKED ||
           kind == CHECK_L2_TABLE_COPIED || kind == CHECK_CLUSTER_COPIED ||
           kind == CHECK_BLOCK_UNREADABLE || kind == CHECK_OVERLAP;
}

void find(struct checking *checking, uint32_t kind, uint64_t detail0, uint64_t detail1,
          uint64_t detail2)
{
    struct CheckResult *result = checking->result;
    const struct CheckFinding finding = {kind, 0, {detail0, detail1, detail2}};
    struct budget *budget = &checking->image.file.budget;
    if (!checking->once && !is_of_window(kind))
        return;
    /* What is left is looked at when the next reference is paid for. */
    budget->left -= budget->left < FINDING_WORK ? budget->left : FINDING_WORK;
    if (kind == CHECK_CLUSTER_LEAKED)
        result->leaks++;
    else if (kind == CHECK_OVERLAP)
        result->overlaps++;
    else if (kind == CHECK_BLOCK_UNREADABLE)
        result->check_errors++;
    else
        result->corruptions++;
    uint8_t *record = add_record(checking->records, sizeof(finding));
    if (record) {
        memcpy(record, &finding, sizeof(finding));
        result->findings_told++;
    }
}

static bool is_of_guest(uint32_t use)
{
    return use == AMEND_USE_DATA || use == AMEND_USE_COMPRESSED;
}

/* Whether two uses may have a cluster in common: L2 tables of snapshots, and the guest's data, which
 * a writer copies first where the refcount is more than 1. */
static bool may_share(uint32_t use, uint32_t other)
{
    return (use == AMEND_USE_L2_TABLE && other == use) || (is_of_guest(use) && is_of_guest(other));
}

static void count_cluster(struct checking *checking, uint64_t cluster, uint32_t use)
{
    struct counts *counts = &checking->counts;
    if (!is_counted(counts, cluster))
        return;
    uint32_t count = get_count(counts, cluster);
    uint8_t *use_byte = use_of(counts, cluster);
    uint32_t before = *use_byte & USE_MASK;
    if (count == largest_refcount(checking->image.header.refcount_order) || count == UINT32_MAX) {
        find(checking, CHECK_REFCOUNT_OVERFLOW, cluster << checking->image.header.cluster_bits, 0,
             0);
        return;
    }
    if (count && !may_share(use, before))
        find(checking, CHECK_OVERLAP, cluster << checking->image.header.cluster_bits, before, use);
    if (!count)
        *use_byte |= (uint8_t)use;
    set_count(counts, cluster, count + 1);
}

void note_flag(struct checking *checking, uint64_t offset, bool copied)
{
    uint64_t cluster = offset >> checking->image.header.cluster_bits;
    if (cluster >= checking->file_clusters)
        checking->doubted = true;
    else if (is_counted(&checking->counts, cluster))
        *use_of(&checking->counts, cluster) |= copied ? SAID_ALONE : SAID_SHARED;
}

bool count_region(struct checking *checking, uint64_t offset, uint64_t size, uint32_t use)
{
    uint32_t bits = checking->image.header.cluster_bits;
    uint64_t file_size = checking->image.file.io->size;
    uint64_t cluster_size = checking->image.header.cluster_size;
    if (size == 0)
        return true;
    if (size > INT64_MAX || offset > INT64_MAX - size ||
        (offset + size > file_size && offset + size - file_size >= cluster_size)) {
        find(checking, CHECK_REGION_OUTSIDE, offset, size, use);
        return true;
    }
    uint64_t first = offset >> bits, last = (offset + size - 1) >> bits;
    if (!spend(&checking->image.file.budget, REGION_WORK + (last - first + 1) * COUNT_WORK))
        return false;
    if (last >= checking->clusters)
        checking->clusters = last + 1;
    for (uint64_t cluster = first; cluster <= last; cluster++)
        count_cluster(checking, cluster, use);
    return true;
}
