/* Pure, either side: judges the snapshot table, and every L2 table that a downgrade depends on. */
#include <string.h>

#include "bytes.h"
#include "internal.h"

/* How much of the snapshot table is read at once: most have but a few entries. */
#define SNAPSHOT_WINDOW 4096u

/* A scan of one or more L1 tables, collecting L2 tables until a batch is worth a read. */
struct scan {
    struct planner *planner;
    uint64_t done, total;       /* L1 entries */
    uint64_t tables_left;       /* an L1 table that names more L2 tables than fit names some twice */
    uint64_t batch_bytes;
    uint32_t range_count;
    struct io_range ranges[PLANNER_RANGES_MAX];
    uint64_t zero_clusters;       /* found so far */
    uint64_t compressed_clusters; /* found so far */
    bool failed;
};

/* Count the L2 entries of the batch ("Standard Cluster Descriptor"); most tables have neither kind. */
static void count_entries(struct scan *scan, const uint8_t *tables, uint64_t bytes)
{
    for (const uint8_t *p = tables; p < tables + bytes; p += QCOW2_TABLE_ENTRY_SIZE) {
        /* The two flags lie in the entry's first and last byte. */
        if (p[0] & (QCOW2_L2_COMPRESSED >> 56))
            scan->compressed_clusters++;
        else if (p[7] & QCOW2_L2_ZERO)
            scan->zero_clusters++;
    }
}

static void flush_batch(struct scan *scan)
{
    const struct image_io *io = scan->planner->io;
    if (scan->range_count == 0 || scan->failed)
        return;
    if (io->read(io->context, scan->ranges, scan->range_count)) {
        count_entries(scan, scan->planner->workspace->batch, scan->batch_bytes);
    } else {
        refuse(scan->planner, REFUSAL_READ_FAILED, AMEND_ERROR_READ_FAILED, scan->ranges[0].offset,
               scan->batch_bytes, 0);
        scan->failed = true;
    }
    scan->range_count = 0;
    scan->batch_bytes = 0;
}

/* Take part of an L2 table into the batch, into the last range if it lies right behind that. */
static void add_to_batch(struct scan *scan, uint64_t offset, uint32_t size)
{
    struct planner *planner = scan->planner;
    if (scan->batch_bytes + size > PLANNER_BATCH_SIZE || scan->range_count == PLANNER_RANGES_MAX)
        flush_batch(scan);
    struct io_range *last = scan->range_count ? &scan->ranges[scan->range_count - 1] : 0;
    uint8_t *buffer = planner->workspace->batch + scan->batch_bytes;
    uint64_t present = round_up(planner->io->size, QCOW2_SECTOR_SIZE) - offset;
    uint64_t length = size < present ? size : present;
    if (last && last->offset + last->length == offset)
        last->length += length;
    else
        scan->ranges[scan->range_count++] = (struct io_range){offset, length, buffer};
    memset(buffer + length, 0, size - length);
    scan->batch_bytes += size;
}

/* Look at L1 entry `index` of the table at `table_offset`. */
static void scan_l1_entry(struct scan *scan, uint64_t table_offset, uint64_t index, uint64_t entry)
{
    struct planner *planner = scan->planner;
    uint32_t cluster_size = planner->header.cluster_size;
    uint64_t offset = entry & QCOW2_TABLE_OFFSET_MASK;
    if (offset == 0)
        return;
    if (offset % cluster_size != 0 || !inside_image(planner, offset, cluster_size) ||
        scan->tables_left == 0) {
        refuse(planner, REFUSAL_L2_TABLE, AMEND_ERROR_PARSE_FAILED, table_offset, index, offset);
        scan->failed = true;
        return;
    }
    scan->tables_left--;
    uint32_t part = cluster_size < PLANNER_BATCH_SIZE ? cluster_size : PLANNER_BATCH_SIZE;
    for (uint32_t at = 0; at < cluster_size && offset + at < planner->io->size; at += part)
        add_to_batch(scan, offset + at, part);
}

/* Scan `count` entries of one L1 table from entry `first` on; what the active L1 table names at the
 * same place has been looked at already. */
static void scan_l1_part(struct scan *scan, uint64_t table_offset, uint64_t first, uint32_t count,
                         bool active)
{
    struct planner *planner = scan->planner;
    const struct qcow2_header *h = &planner->header;
    uint8_t *table = planner->workspace->table, *other = planner->workspace->other_table;
    uint64_t at = first * QCOW2_TABLE_ENTRY_SIZE;
    uint32_t bytes = count * QCOW2_TABLE_ENTRY_SIZE, known = 0;
    if (!active && first < h->l1_size)
        known = h->l1_size - first < count ? (uint32_t)(h->l1_size - first) : count;
    if (!read_image(planner, table_offset + at, table, bytes) ||
        (known &&
         !read_image(planner, h->l1_table_offset + at, other, known * QCOW2_TABLE_ENTRY_SIZE))) {
        scan->failed = true;
        return;
    }
    for (uint32_t i = 0; i < count && !scan->failed; i++) {
        uint64_t entry = load_be64(table + i * QCOW2_TABLE_ENTRY_SIZE);
        uint64_t seen = i < known ? load_be64(other + i * QCOW2_TABLE_ENTRY_SIZE) : 0;
        if (i >= known || ((entry ^ seen) & QCOW2_TABLE_OFFSET_MASK))
            scan_l1_entry(scan, table_offset, first + i, entry);
    }
    scan->done += count;
    if (planner->config->flags & AMEND_FLAG_PROGRESS)
        planner->io->progress(planner->io->context, scan->done, scan->total);
}

static void scan_l1_table(struct scan *scan, uint64_t table_offset, uint32_t entries, bool active)
{
    const uint32_t part = PLANNER_TABLE_SIZE / QCOW2_TABLE_ENTRY_SIZE;
    scan->tables_left = scan->planner->io->size / scan->planner->header.cluster_size + 1;
    for (uint64_t first = 0; first < entries && !scan->failed; first += part)
        scan_l1_part(scan, table_offset, first,
                     entries - first < part ? (uint32_t)(entries - first) : part, active);
}

/* The fixed part of a snapshot table entry ("Snapshots"). */
struct snapshot {
    uint64_t l1_table_offset;
    uint32_t l1_size;
    uint32_t extra_data_size;
    uint64_t vm_state_size;
    uint64_t disk_size;
    uint32_t size; /* of the entry in bytes, padding included */
};

static void parse_snapshot(const struct qcow2_header *h, const uint8_t *raw,
                           struct snapshot *snapshot)
{
    snapshot->l1_table_offset = load_be64(raw + QCOW2_SNAPSHOT_L1_TABLE_OFFSET);
    snapshot->l1_size = load_be32(raw + QCOW2_SNAPSHOT_L1_SIZE);
    snapshot->extra_data_size = load_be32(raw + QCOW2_SNAPSHOT_EXTRA_DATA_SIZE);
    snapshot->vm_state_size = load_be32(raw + QCOW2_SNAPSHOT_VM_STATE_SIZE);
    if (snapshot->extra_data_size >= 8)
        snapshot->vm_state_size = load_be64(raw + QCOW2_SNAPSHOT_VM_STATE_SIZE_LARGE);
    snapshot->disk_size = h->size;
    if (snapshot->extra_data_size >= 16)
        snapshot->disk_size = load_be64(raw + QCOW2_SNAPSHOT_DISK_SIZE);
    uint32_t extra = snapshot->extra_data_size > QCOW2_SNAPSHOT_EXTRA_DATA_MAX
                         ? QCOW2_SNAPSHOT_EXTRA_DATA_MAX
                         : snapshot->extra_data_size;
    snapshot->size = (uint32_t)round_up(QCOW2_SNAPSHOT_HEADER_SIZE + extra +
                                            load_be16(raw + QCOW2_SNAPSHOT_ID_SIZE) +
                                            load_be16(raw + QCOW2_SNAPSHOT_NAME_SIZE),
                                        8);
}

/* Read the entry at byte `at` of the snapshot table, keeping a window of it in `batch`. */
static bool read_snapshot(struct planner *planner, uint64_t at, uint64_t *window,
                          struct snapshot *snapshot)
{
    const struct qcow2_header *h = &planner->header;
    uint8_t *buffer = planner->workspace->batch;
    uint64_t offset = h->snapshots_offset + at;
    if (!inside_image(planner, offset, QCOW2_SNAPSHOT_HEADER_SIZE)) {
        refuse(planner, REFUSAL_SNAPSHOT_TABLE, AMEND_ERROR_PARSE_FAILED, h->snapshots_offset,
               h->nb_snapshots, 0);
        return false;
    }
    if (offset < *window || offset + QCOW2_SNAPSHOT_KNOWN_SIZE > *window + SNAPSHOT_WINDOW) {
        *window = offset & ~(uint64_t)(QCOW2_SECTOR_SIZE - 1);
        if (!read_image(planner, *window, buffer, SNAPSHOT_WINDOW))
            return false;
    }
    parse_snapshot(h, buffer + (offset - *window), snapshot);
    return true;
}

/* Judge snapshot `index`. False: the table cannot be followed any further. */
static bool check_snapshot(struct planner *planner, const struct snapshot *snapshot, uint32_t index)
{
    const struct qcow2_header *h = &planner->header;
    uint64_t l1_bytes = (uint64_t)snapshot->l1_size * QCOW2_TABLE_ENTRY_SIZE;
    uint64_t disk_size = h->size - h->size % QCOW2_SECTOR_SIZE;
    if (snapshot->extra_data_size > QCOW2_SNAPSHOT_EXTRA_DATA_MAX) {
        refuse(planner, REFUSAL_SNAPSHOT_TABLE, AMEND_ERROR_PARSE_FAILED, h->snapshots_offset,
               h->nb_snapshots, index + 1);
        return false;
    }
    if (planner->target_version == 3 && h->version == 2 &&
        snapshot->extra_data_size < QCOW2_SNAPSHOT_EXTRA_DATA_V3)
        refuse(planner, REFUSAL_UPGRADE_SNAPSHOT_EXTRA_DATA, AMEND_ERROR_UNSUPPORTED_FEATURE,
               index + 1, snapshot->extra_data_size, 0);
    if (planner->target_version == 3 || h->version == 2)
        return true;
    if (snapshot->disk_size != h->size && snapshot->disk_size != disk_size)
        refuse(planner, REFUSAL_DOWNGRADE_SNAPSHOT_SIZE, AMEND_ERROR_DOWNGRADE_BLOCKED, index + 1,
               snapshot->disk_size, disk_size);
    if (snapshot->vm_state_size > UINT32_MAX)
        refuse(planner, REFUSAL_DOWNGRADE_SNAPSHOT_VM_STATE, AMEND_ERROR_DOWNGRADE_BLOCKED,
               index + 1, snapshot->vm_state_size, 0);
    if (l1_bytes > QCOW2_L1_SIZE_MAX || snapshot->l1_table_offset % h->cluster_size != 0 ||
        (l1_bytes && !inside_image(planner, snapshot->l1_table_offset, l1_bytes)))
        refuse(planner, REFUSAL_SNAPSHOT_TABLE, AMEND_ERROR_PARSE_FAILED,
               snapshot->l1_table_offset, snapshot->l1_size, index + 1);
    return true;
}

uint64_t check_snapshots(struct planner *planner)
{
    const struct qcow2_header *h = &planner->header;
    struct snapshot snapshot;
    uint64_t at = 0, window = UINT64_MAX - SNAPSHOT_WINDOW, l1_entries = 0;
    for (uint32_t i = 0; i < h->nb_snapshots; i++) {
        if (at > QCOW2_SNAPSHOT_TABLE_SIZE_MAX) {
            refuse(planner, REFUSAL_SNAPSHOT_TABLE, AMEND_ERROR_PARSE_FAILED, h->snapshots_offset,
                   h->nb_snapshots, 0);
            break;
        }
        if (!read_snapshot(planner, at, &window, &snapshot) ||
            !check_snapshot(planner, &snapshot, i))
            break;
        at += snapshot.size;
        l1_entries += snapshot.l1_size;
    }
    return l1_entries;
}

/* Scan the L1 tables of all snapshots; the table has been checked. */
static void scan_snapshots(struct scan *scan)
{
    struct planner *planner = scan->planner;
    struct snapshot snapshot;
    uint64_t at = 0;
    for (uint32_t i = 0; i < planner->header.nb_snapshots && !scan->failed; i++) {
        uint64_t window = UINT64_MAX - SNAPSHOT_WINDOW; /* the scan uses the buffer too */
        flush_batch(scan);
        if (!read_snapshot(planner, at, &window, &snapshot))
            return;
        scan_l1_table(scan, snapshot.l1_table_offset, snapshot.l1_size, false);
        at += snapshot.size;
    }
}

void scan_for_downgrade(struct planner *planner, uint64_t snapshot_l1_entries)
{
    const struct qcow2_header *h = &planner->header;
    struct scan scan = {.planner = planner, .total = h->l1_size + snapshot_l1_entries};
    scan_l1_table(&scan, h->l1_table_offset, h->l1_size, true);
    scan_snapshots(&scan);
    flush_batch(&scan);
    if (scan.zero_clusters)
        refuse(planner, REFUSAL_DOWNGRADE_ZERO_CLUSTERS, AMEND_ERROR_DOWNGRADE_BLOCKED,
               scan.zero_clusters, 0, 0);
    if (scan.compressed_clusters && h->compression_type != QCOW2_COMPRESSION_ZLIB)
        refuse(planner, REFUSAL_DOWNGRADE_COMPRESSED_CLUSTERS, AMEND_ERROR_DOWNGRADE_BLOCKED,
               scan.compressed_clusters, h->compression_type, 0);
}
