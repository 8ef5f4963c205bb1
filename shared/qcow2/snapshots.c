/* Pure, either side: judges the snapshot table of the untrusted image, and completes it for version 3. */
#include <string.h>

#include "qcow2/bytes.h"
#include "amend/internal.h"

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
    snapshot->text_size =
        load_be16(raw + QCOW2_SNAPSHOT_ID_SIZE) + load_be16(raw + QCOW2_SNAPSHOT_NAME_SIZE);
    snapshot->size =
        (uint32_t)round_up(QCOW2_SNAPSHOT_HEADER_SIZE + extra + snapshot->text_size, 8);
}

static bool refuse_table(struct planner *planner, uint32_t number)
{
    refuse(planner, REFUSAL_SNAPSHOT_TABLE, AMEND_ERROR_PARSE_FAILED,
           planner->header.snapshots_offset, planner->header.nb_snapshots, number);
    return false;
}

bool read_snapshot(struct planner *planner, uint64_t at, struct snapshot *snapshot)
{
    const struct qcow2_header *h = &planner->header;
    uint64_t offset = h->snapshots_offset + at;
    if (!inside_image(planner, offset, QCOW2_SNAPSHOT_HEADER_SIZE))
        return refuse_table(planner, 0);
    const uint8_t *raw = look(planner, &planner->snapshots, offset, QCOW2_SNAPSHOT_KNOWN_SIZE);
    if (!raw)
        return false;
    parse_snapshot(h, raw, snapshot);
    return inside_image(planner, offset, snapshot->size) || refuse_table(planner, 0);
}

bool check_l1_table(struct planner *planner, const struct snapshot *snapshot, uint32_t number)
{
    uint64_t bytes = (uint64_t)snapshot->l1_size * QCOW2_TABLE_ENTRY_SIZE;
    if (bytes <= QCOW2_L1_SIZE_MAX &&
        snapshot->l1_table_offset % planner->header.cluster_size == 0 &&
        (bytes == 0 || inside_image(planner, snapshot->l1_table_offset, bytes)))
        return true;
    refuse(planner, REFUSAL_SNAPSHOT_TABLE, AMEND_ERROR_PARSE_FAILED, snapshot->l1_table_offset,
           snapshot->l1_size, number);
    return false;
}

/* What version 2 cannot express of snapshot `number`, and what a downgrade has to follow. */
static void check_for_downgrade(struct planner *planner, const struct snapshot *snapshot,
                                uint32_t number)
{
    const struct qcow2_header *h = &planner->header;
    uint64_t disk_size = h->size - h->size % QCOW2_SECTOR_SIZE;
    if (snapshot->disk_size != h->size && snapshot->disk_size != disk_size)
        refuse(planner, REFUSAL_DOWNGRADE_SNAPSHOT_SIZE, AMEND_ERROR_DOWNGRADE_BLOCKED, number,
               snapshot->disk_size, disk_size);
    if (snapshot->vm_state_size > UINT32_MAX)
        refuse(planner, REFUSAL_DOWNGRADE_SNAPSHOT_VM_STATE, AMEND_ERROR_DOWNGRADE_BLOCKED, number,
               snapshot->vm_state_size, 0);
    (void)check_l1_table(planner, snapshot, number);
}

/* How large the entry is with all that version 3 wants. */
static uint32_t complete_size(const struct snapshot *snapshot)
{
    uint32_t extra = snapshot->extra_data_size < QCOW2_SNAPSHOT_EXTRA_DATA_FULL
                         ? QCOW2_SNAPSHOT_EXTRA_DATA_FULL
                         : snapshot->extra_data_size;
    return (uint32_t)round_up(QCOW2_SNAPSHOT_HEADER_SIZE + extra + snapshot->text_size, 8);
}

void check_snapshots(struct planner *planner)
{
    const struct qcow2_header *h = &planner->header;
    bool upgrade = planner->target_version > h->version, incomplete = false;
    struct snapshot snapshot;
    uint64_t at = 0, needed = 0;
    for (uint32_t i = 0; i < h->nb_snapshots; i++) {
        if (at > QCOW2_SNAPSHOT_TABLE_SIZE_MAX) {
            refuse_table(planner, 0);
            return;
        }
        if (!read_snapshot(planner, at, &snapshot))
            return;
        if (snapshot.extra_data_size > QCOW2_SNAPSHOT_EXTRA_DATA_MAX) {
            refuse_table(planner, i + 1);
            return;
        }
        if (planner->target_version < h->version)
            check_for_downgrade(planner, &snapshot, i + 1);
        incomplete |= snapshot.extra_data_size < QCOW2_SNAPSHOT_EXTRA_DATA_V3;
        at += snapshot.size;
        needed += complete_size(&snapshot);
        planner->l1_entries += snapshot.l1_size;
    }
    planner->snapshots_size = at;
    planner->snapshots_needed = upgrade && incomplete ? needed : 0;
}

/* A table being written, a piece at a time. */
struct output {
    struct planner *planner;
    uint64_t offset; /* of the piece in the image */
    uint32_t used;
};

/* Stage the piece; a last one is filled up with zeros to the end of its cluster. */
static bool put_piece(struct output *out, bool last)
{
    struct planner *planner = out->planner;
    uint8_t *piece = planner->workspace->batch;
    uint64_t end = out->offset + out->used;
    uint32_t fill = last ? (uint32_t)(round_up(end, planner->header.cluster_size) - end) : 0;
    while (out->used + fill > 0) {
        uint32_t zeros = PLANNER_BATCH_SIZE - out->used < fill ? PLANNER_BATCH_SIZE - out->used : fill;
        memset(piece + out->used, 0, zeros);
        if (!write_image(planner, INSTAR_PHASE_PREPARE, out->offset, piece, out->used + zeros))
            return false;
        out->offset += out->used + zeros;
        out->used = 0;
        fill -= zeros;
    }
    return true;
}

static bool put_bytes(struct output *out, const uint8_t *bytes, uint32_t size)
{
    while (size) {
        uint32_t room = PLANNER_BATCH_SIZE - out->used, part = size < room ? size : room;
        memcpy(out->planner->workspace->batch + out->used, bytes, part);
        out->used += part;
        bytes += part;
        size -= part;
        if (out->used == PLANNER_BATCH_SIZE && !put_piece(out, false))
            return false;
    }
    return true;
}

/* Copy bytes of the old table. */
static bool put_copy(struct output *out, uint64_t offset, uint32_t size)
{
    const uint32_t most = PLANNER_WINDOW_SIZE - QCOW2_SECTOR_SIZE;
    while (size) {
        uint32_t part = size < most ? size : most;
        const uint8_t *bytes = look(out->planner, &out->planner->snapshots, offset, part);
        if (!bytes || !put_bytes(out, bytes, part))
            return false;
        offset += part;
        size -= part;
    }
    return true;
}

/* Write the entry at byte `at` of the old table with all extra data ("Snapshots"): what it lacks
 * says what version 2 implies, and that there is no instruction count. */
static bool put_snapshot(struct output *out, uint64_t at, struct snapshot *snapshot)
{
    static const uint8_t padding[8];
    struct planner *planner = out->planner;
    uint64_t offset = planner->header.snapshots_offset + at;
    uint8_t head[QCOW2_SNAPSHOT_HEADER_SIZE + QCOW2_SNAPSHOT_EXTRA_DATA_FULL];
    if (!read_snapshot(planner, at, snapshot))
        return false;
    uint32_t had = snapshot->extra_data_size, full = QCOW2_SNAPSHOT_EXTRA_DATA_FULL;
    uint32_t known = had < full ? had : full;
    const uint8_t *raw = look(planner, &planner->snapshots, offset, sizeof(head));
    if (!raw)
        return false;
    memcpy(head, raw, QCOW2_SNAPSHOT_HEADER_SIZE + known);
    store_be32(head + QCOW2_SNAPSHOT_EXTRA_DATA_SIZE, had < full ? full : had);
    store_be64(head + QCOW2_SNAPSHOT_VM_STATE_SIZE_LARGE, snapshot->vm_state_size);
    store_be64(head + QCOW2_SNAPSHOT_DISK_SIZE, snapshot->disk_size);
    if (had < full)
        store_be64(head + QCOW2_SNAPSHOT_ICOUNT, UINT64_MAX);
    uint32_t size = complete_size(snapshot);
    uint32_t rest = had - known + snapshot->text_size;
    return put_bytes(out, head, sizeof(head)) &&
           put_copy(out, offset + QCOW2_SNAPSHOT_HEADER_SIZE + known, rest) &&
           put_bytes(out, padding, size - (uint32_t)sizeof(head) - rest);
}

bool rewrite_snapshots(struct planner *planner)
{
    const struct qcow2_header *h = &planner->header;
    struct output out = {.planner = planner};
    struct snapshot snapshot;
    uint64_t clusters = round_up(planner->snapshots_needed, h->cluster_size) >> h->cluster_bits;
    if (planner->snapshots_needed > QCOW2_SNAPSHOT_TABLE_SIZE_MAX) {
        refuse(planner, REFUSAL_SNAPSHOT_TABLE_FULL, AMEND_ERROR_OVERFLOW,
               planner->snapshots_needed, 0, 0);
        return false;
    }
    uint64_t at = 0;
    if (!start_refcounts(planner, clusters) || !allocate_clusters(planner, clusters, 1, &out.offset))
        return false;
    planner->new_snapshots_offset = out.offset;
    for (uint32_t i = 0; i < h->nb_snapshots; i++, at += snapshot.size)
        if (!put_snapshot(&out, at, &snapshot))
            return false;
    return put_piece(&out, true) &&
           release_clusters(planner, h->snapshots_offset, planner->snapshots_size,
                            AMEND_USE_SNAPSHOT_TABLE);
}
