/* Pure, either side: counts what the untrusted image refers to, and compares. */
#include "inspect/check.h"

#include <string.h>

#include "bits.h"
#include "inspect/bitmap_tables.h"
#include "inspect/compare.h"
#include "inspect/tables.h"
#include "qcow2/bytes.h"
#include "qcow2/extensions.h"
#include "qcow2/geometry.h"
#include "qcow2/header.h"
#include "qcow2/qcow2.h"
#include "qcow2/snapshots.h"

static bool count_snapshot(struct checking *checking, const struct snapshot *snapshot,
                           uint32_t number)
{
    if (checking->image.header.incompatible_features & QCOW2_INCOMPATIBLE_DATA_FILE) {
        find(checking, CHECK_SNAPSHOT_DATA_FILE, number, 0, 0);
        return true;
    }
    if (checking->image.header.version > 2 &&
        snapshot->extra_data_size < QCOW2_SNAPSHOT_EXTRA_DATA_V3)
        find(checking, CHECK_SNAPSHOT_INCOMPLETE, number, 0, 0);
    if (snapshot->l1_table_offset % checking->image.header.cluster_size) {
        find(checking, CHECK_SNAPSHOT_UNALIGNED, number, snapshot->l1_table_offset, 0);
        return true;
    }
    if (snapshot->l1_size > QCOW2_L1_SIZE_MAX / QCOW2_TABLE_ENTRY_SIZE) {
        find(checking, CHECK_SNAPSHOT_SIZE, number, snapshot->l1_size, 0);
        return true;
    }
    return count_table(checking, snapshot->l1_table_offset, snapshot->l1_size, false);
}

static bool count_snapshots(struct checking *checking)
{
    const struct qcow2_header *h = &checking->image.header;
    struct snapshot snapshot;
    uint64_t at = 0;
    for (uint32_t i = 0; i < h->nb_snapshots; i++, at += snapshot.size)
        if (!read_snapshot(&checking->image, at, &snapshot) ||
            !count_snapshot(checking, &snapshot, i + 1))
            return false;
    return count_region(checking, h->snapshots_offset, at, AMEND_USE_SNAPSHOT_TABLE);
}

/* Count a block of the refcount table; it must have no other user. */
static bool count_block(struct checking *checking, uint64_t index, uint64_t entry)
{
    const struct qcow2_header *h = &checking->image.header;
    uint64_t offset = entry & ~QCOW2_REFCOUNT_TABLE_RESERVED, cluster = offset >> h->cluster_bits;
    if (entry & QCOW2_REFCOUNT_TABLE_RESERVED) {
        find(checking, CHECK_BLOCK_RESERVED, index, entry, 0);
        return true;
    }
    if (offset % h->cluster_size) {
        find(checking, CHECK_BLOCK_UNALIGNED, index, entry, 0);
        return true;
    }
    if (cluster >= checking->clusters) {
        find(checking, CHECK_BLOCK_OUTSIDE, index, entry, 0);
        return true;
    }
    if (!count_region(checking, offset, h->cluster_size, AMEND_USE_REFCOUNT_BLOCK))
        return false;
    if (is_counted(&checking->counts, cluster) && get_count(&checking->counts, cluster) != 1)
        find(checking, CHECK_BLOCK_REFCOUNT, index, get_count(&checking->counts, cluster), 0);
    return true;
}

static bool count_blocks(struct checking *checking)
{
    uint64_t entry;
    for (uint64_t i = 0; i < checking->refcounts.table_entries; i++)
        if (!read_entry(checking, i, &entry) || (entry && !count_block(checking, i, entry)))
            return false;
    return true;
}

bool count_contents(struct checking *checking)
{
    const struct qcow2_header *h = &checking->image.header;
    return count_region(checking, 0, h->cluster_size, AMEND_USE_HEADER) &&
           count_table(checking, h->l1_table_offset, h->l1_size, true) &&
           count_snapshots(checking) &&
           count_region(checking, h->crypto_offset, h->crypto_size, AMEND_USE_CRYPTO_HEADER) &&
           count_bitmaps(checking);
}

static bool count_all(struct checking *checking)
{
    const struct qcow2_header *h = &checking->image.header;
    uint64_t table = (uint64_t)h->refcount_table_clusters << h->cluster_bits;
    return count_contents(checking) &&
           count_region(checking, h->refcount_table_offset, table, AMEND_USE_REFCOUNT_TABLE) &&
           count_blocks(checking);
}

/* Whether nothing is refused but that the image is dirty or corrupt. */
static bool can_be_checked(const struct verdict *verdict)
{
    for (uint32_t i = 0; i < verdict->count; i++)
        if (verdict->refusals[i].reason != REFUSAL_DIRTY &&
            verdict->refusals[i].reason != REFUSAL_CORRUPT)
            return false;
    return true;
}

static bool check_windows(struct checking *checking, uint8_t *memory, uint64_t size)
{
    struct counts *counts = &checking->counts;
    uint64_t total = checking->file_clusters + 1;
    counts->memory = memory;
    counts->wide = checking->image.header.refcount_order > QCOW2_REFCOUNT_ORDER_DEFAULT;
    uint64_t room = room_for_counts(size, counts->wide);
    if (room == 0)
        return refuse(checking->image.file.verdict, REFUSAL_WORK_LIMIT, AMEND_ERROR_WORK_LIMIT, 0,
                      0, 0);
    checking->to_walk = (total + room - 1) / room * checking->image.l1_entries;
    for (counts->first = 0; counts->first < total; counts->first += room) {
        counts->size = total - counts->first < room ? total - counts->first : room;
        checking->once = counts->first == 0;
        checking->doubted = false;
        uint64_t used = place_uses(counts);
        if (!spend(&checking->image.file.budget, used))
            return false;
        memset(memory, 0, used);
        if (!count_all(checking) || !compare_counts(checking) || !check_flags(checking))
            return false;
    }
    return true;
}

/* The refcounts as they are, whatever the table names. */
static void open_refcounts(struct checking *checking)
{
    struct qcow2_memory *memory = checking->image.memory;
    const struct qcow2_header *h = &checking->image.header;
    uint64_t entries =
        ((uint64_t)h->refcount_table_clusters << h->cluster_bits) / QCOW2_TABLE_ENTRY_SIZE;
    checking->refcounts = (struct refcounts){
        .image = &checking->image,
        .table = {memory->other_table, WINDOW_SIZE, INSTAR_PHASE_PREPARE, 0, .any_order = true},
        .disk = {memory->refcounts, WINDOW_SIZE, INSTAR_PHASE_PREPARE, 0, .any_order = true},
        .table_offset = h->refcount_table_offset,
        .table_entries = entries,
        .disk_blocks = entries,
        .blocks = entries,
    };
}

void check_image(const struct inspection *inspection, struct check_workspace *workspace,
                 uint64_t size, struct CheckResult *result)
{
    struct verdict *verdict = inspection->verdict;
    struct checking checking = {.records = &workspace->records, .result = result};
    struct qcow2_image *image = &checking.image;
    const struct qcow2_header *h = &image->header;
    memset(result, 0, sizeof(*result));
    result->magic = CHECK_RESULT_MAGIC;
    start_verdict(verdict);
    open_qcow2(image, &workspace->image, inspection->io, verdict, inspection->work_max);
    image->file.read_only = true;
    start_records(&workspace->records, inspection->sink, FRAME_CHECK_FINDINGS);
    if (parse_header(image) && parse_extensions(image) && can_be_checked(verdict)) {
        check_snapshots(image, 0, 0);
        if (can_be_checked(verdict)) {
            open_refcounts(&checking);
            checking.file_clusters = round_up(image->file.io->size, h->cluster_size) >> h->cluster_bits;
            checking.clusters = checking.file_clusters;
            result->total_clusters = (disk_size(h) + h->cluster_size - 1) >> h->cluster_bits;
            if (check_windows(&checking, (uint8_t *)(workspace + 1), size))
                result->image_end_offset = (checking.highest + 1) << h->cluster_bits;
        }
    }
    end_records(&workspace->records);
    result->refusal_count = verdict->count;
}
