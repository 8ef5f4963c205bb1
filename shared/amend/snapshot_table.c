/* Pure, either side: writes the snapshot table of the untrusted image anew. */
#include "amend/snapshot_table.h"

#include <string.h>

#include "amend/allocate.h"
#include "bits.h"
#include "image/writes.h"
#include "qcow2/bytes.h"
#include "qcow2/qcow2.h"

uint32_t complete_size(const struct snapshot *snapshot)
{
    uint32_t extra = snapshot->extra_data_size < QCOW2_SNAPSHOT_EXTRA_DATA_FULL
                         ? QCOW2_SNAPSHOT_EXTRA_DATA_FULL
                         : snapshot->extra_data_size;
    return (uint32_t)round_up(QCOW2_SNAPSHOT_HEADER_SIZE + extra + snapshot->text_size, 8);
}

/* A table being written, a piece at a time. */
struct output {
    struct qcow2_image *image;
    uint64_t offset; /* of the piece in the image */
    uint32_t used;
};

/* Stage the piece; a last one is filled up with zeros to the end of its cluster. */
static bool put_piece(struct output *out, bool last)
{
    struct qcow2_image *image = out->image;
    uint8_t *piece = image->memory->batch;
    uint64_t end = out->offset + out->used;
    uint32_t fill = last ? (uint32_t)(round_up(end, image->header.cluster_size) - end) : 0;
    while (out->used + fill > 0) {
        uint32_t zeros = BATCH_SIZE - out->used < fill ? BATCH_SIZE - out->used : fill;
        memset(piece + out->used, 0, zeros);
        if (!write_image(&image->file, INSTAR_PHASE_PREPARE, out->offset, piece, out->used + zeros))
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
        uint32_t room = BATCH_SIZE - out->used, part = size < room ? size : room;
        memcpy(out->image->memory->batch + out->used, bytes, part);
        out->used += part;
        bytes += part;
        size -= part;
        if (out->used == BATCH_SIZE && !put_piece(out, false))
            return false;
    }
    return true;
}

/* Copy bytes of the old table. */
static bool put_copy(struct output *out, uint64_t offset, uint32_t size)
{
    const uint32_t most = WINDOW_SIZE - SECTOR_SIZE;
    while (size) {
        uint32_t part = size < most ? size : most;
        const uint8_t *bytes = look(&out->image->file, &out->image->structures, offset, part);
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
    struct qcow2_image *image = out->image;
    uint64_t offset = image->header.snapshots_offset + at;
    uint8_t head[QCOW2_SNAPSHOT_HEADER_SIZE + QCOW2_SNAPSHOT_EXTRA_DATA_FULL];
    if (!read_snapshot(image, at, snapshot))
        return false;
    uint32_t had = snapshot->extra_data_size, full = QCOW2_SNAPSHOT_EXTRA_DATA_FULL;
    uint32_t known = had < full ? had : full;
    const uint8_t *raw = look(&image->file, &image->structures, offset, sizeof(head));
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

bool complete_snapshots(struct books *books, uint64_t size, uint64_t *offset)
{
    struct qcow2_image *image = books->image;
    const struct qcow2_header *h = &image->header;
    struct output out = {.image = image};
    struct snapshot snapshot;
    uint64_t clusters = round_up(size, h->cluster_size) >> h->cluster_bits, at = 0;
    if (size > QCOW2_SNAPSHOT_TABLE_SIZE_MAX)
        return refuse(image->file.verdict, REFUSAL_SNAPSHOT_TABLE_FULL, AMEND_ERROR_OVERFLOW, size,
                      0, 0);
    if (!expect_clusters(books, clusters) || !allocate_clusters(books, clusters, 1, offset))
        return false;
    out.offset = *offset;
    for (uint32_t i = 0; i < h->nb_snapshots; i++, at += snapshot.size)
        if (!put_snapshot(&out, at, &snapshot))
            return false;
    return put_piece(&out, true) &&
           release_clusters(books, h->snapshots_offset, image->snapshots_size,
                            AMEND_USE_SNAPSHOT_TABLE);
}
