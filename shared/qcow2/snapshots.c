/* Pure, either side: reads and judges the snapshot table of the untrusted image ("Snapshots"). */
#include "qcow2/snapshots.h"

#include <string.h>

#include "bits.h"
#include "qcow2/bytes.h"
#include "qcow2/geometry.h"
#include "qcow2/qcow2.h"

static void parse_snapshot(const struct qcow2_header *h, const uint8_t *raw,
                           struct snapshot *snapshot)
{
    snapshot->l1_table_offset = load_be64(raw + QCOW2_SNAPSHOT_L1_TABLE_OFFSET);
    snapshot->l1_size = load_be32(raw + QCOW2_SNAPSHOT_L1_SIZE);
    snapshot->extra_data_size = load_be32(raw + QCOW2_SNAPSHOT_EXTRA_DATA_SIZE);
    snapshot->vm_state_size = load_be32(raw + QCOW2_SNAPSHOT_VM_STATE_SIZE);
    if (snapshot->extra_data_size >= 8)
        snapshot->vm_state_size = load_be64(raw + QCOW2_SNAPSHOT_VM_STATE_SIZE_LARGE);
    snapshot->disk_size = disk_size(h);
    if (snapshot->extra_data_size >= 16)
        snapshot->disk_size = load_be64(raw + QCOW2_SNAPSHOT_DISK_SIZE);
    snapshot->icount = snapshot->extra_data_size >= QCOW2_SNAPSHOT_EXTRA_DATA_FULL
                           ? load_be64(raw + QCOW2_SNAPSHOT_ICOUNT)
                           : UINT64_MAX;
    snapshot->vm_clock_nsec = load_be64(raw + QCOW2_SNAPSHOT_VM_CLOCK_NSEC);
    snapshot->date_sec = load_be32(raw + QCOW2_SNAPSHOT_DATE_SEC);
    snapshot->date_nsec = load_be32(raw + QCOW2_SNAPSHOT_DATE_NSEC);
    uint32_t extra = snapshot->extra_data_size > QCOW2_SNAPSHOT_EXTRA_DATA_MAX
                         ? QCOW2_SNAPSHOT_EXTRA_DATA_MAX
                         : snapshot->extra_data_size;
    snapshot->id_size = load_be16(raw + QCOW2_SNAPSHOT_ID_SIZE);
    snapshot->text_size = snapshot->id_size + load_be16(raw + QCOW2_SNAPSHOT_NAME_SIZE);
    snapshot->size =
        (uint32_t)round_up(QCOW2_SNAPSHOT_HEADER_SIZE + extra + snapshot->text_size, 8);
}

static bool refuse_table(struct qcow2_image *image)
{
    return refuse(image->file.verdict, REFUSAL_SNAPSHOT_TABLE, AMEND_ERROR_PARSE_FAILED,
                  image->header.snapshots_offset, image->header.nb_snapshots, 0);
}

bool read_snapshot(struct qcow2_image *image, uint64_t at, struct snapshot *snapshot)
{
    const struct qcow2_header *h = &image->header;
    uint64_t offset = h->snapshots_offset + at;
    if (!inside_image(image, offset, QCOW2_SNAPSHOT_HEADER_SIZE))
        return refuse_table(image);
    const uint8_t *raw = look(&image->file, &image->structures, offset, QCOW2_SNAPSHOT_READ_SIZE);
    if (!raw)
        return false;
    parse_snapshot(h, raw, snapshot);
    snapshot->offset = offset;
    return inside_image(image, offset, snapshot->size) || refuse_table(image);
}

bool check_l1_table(struct qcow2_image *image, const struct snapshot *snapshot, uint32_t number)
{
    uint64_t bytes = (uint64_t)snapshot->l1_size * QCOW2_TABLE_ENTRY_SIZE;
    return (bytes <= QCOW2_L1_SIZE_MAX &&
            snapshot->l1_table_offset % image->header.cluster_size == 0 &&
            (bytes == 0 || inside_image(image, snapshot->l1_table_offset, bytes))) ||
           refuse(image->file.verdict, REFUSAL_SNAPSHOT_TABLE, AMEND_ERROR_PARSE_FAILED,
                  snapshot->l1_table_offset, snapshot->l1_size, number);
}

static bool copy_text(struct qcow2_image *image, uint8_t *to, uint64_t offset, uint32_t size)
{
    const uint8_t *raw = size ? look(&image->file, &image->structures, offset, size) : to;
    if (!raw)
        return false;
    memmove(to, raw, size);
    return true;
}

/* Note what snapshot `number`, at byte `at` of the table, is called, for the message, if it fits. */
static void name_snapshot(struct qcow2_image *image, uint64_t at, const struct snapshot *snapshot,
                          uint32_t number)
{
    struct verdict *v = image->file.verdict;
    uint64_t offset = image->header.snapshots_offset + at + QCOW2_SNAPSHOT_HEADER_SIZE +
                      snapshot->extra_data_size;
    uint32_t name_size = snapshot->text_size - snapshot->id_size;
    uint32_t id_part = snapshot->id_size < SNAPSHOT_ID_MAX ? snapshot->id_size : SNAPSHOT_ID_MAX;
    uint32_t name_part = name_size < SNAPSHOT_NAME_MAX ? name_size : SNAPSHOT_NAME_MAX;
    uint8_t *to = v->snapshots + v->snapshots_size;
    if (sizeof(v->snapshots) - v->snapshots_size < 8 + id_part + name_part)
        return;
    for (uint32_t i = 0; i < 4; i++)
        to[i] = (uint8_t)(number >> 8 * i);
    to[4] = (uint8_t)id_part;
    to[5] = 0;
    to[6] = (uint8_t)name_part;
    to[7] = 0;
    if (copy_text(image, to + 8, offset, id_part) &&
        copy_text(image, to + 8 + id_part, offset + snapshot->id_size, name_part))
        v->snapshots_size += 8 + id_part + name_part;
}

void check_snapshots(struct qcow2_image *image,
                     void (*visit)(void *context, const struct snapshot *snapshot, uint32_t number),
                     void *context)
{
    struct snapshot snapshot;
    uint64_t at = 0;
    image->snapshots_checked = true;
    image->l1_entries = image->header.l1_size;
    for (uint32_t i = 0; i < image->header.nb_snapshots; i++) {
        if (at > QCOW2_SNAPSHOT_TABLE_SIZE_MAX) {
            refuse_table(image);
            return;
        }
        if (!read_snapshot(image, at, &snapshot))
            return;
        if (snapshot.extra_data_size > QCOW2_SNAPSHOT_EXTRA_DATA_MAX) {
            refuse(image->file.verdict, REFUSAL_SNAPSHOT_EXTRA_DATA, AMEND_ERROR_PARSE_FAILED,
                   i + 1, snapshot.extra_data_size, QCOW2_SNAPSHOT_EXTRA_DATA_MAX);
            return;
        }
        uint32_t refusals = image->file.verdict->count;
        if (visit)
            visit(context, &snapshot, i + 1);
        if (image->file.verdict->count > refusals)
            name_snapshot(image, at, &snapshot, i + 1);
        at += snapshot.size;
        image->l1_entries += snapshot.l1_size;
    }
    image->snapshots_size = at;
}
