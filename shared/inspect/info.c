/* Pure, either side: names, features, snapshots and bitmaps of the untrusted image, as they stand. */
#include "inspect/info.h"

#include <string.h>

#include "bits.h"
#include "qcow2/bitmaps.h"
#include "qcow2/bytes.h"
#include "qcow2/extensions.h"
#include "qcow2/header.h"
#include "qcow2/qcow2.h"
#include "qcow2/snapshots.h"

struct telling {
    struct qcow2_image image;
    struct info_workspace *workspace;
    const struct sink *sink;
    struct InfoResult *result;
    struct bitmap_names names;
};

static void tell_text(struct telling *telling, uint32_t text, const uint8_t *bytes, uint32_t size)
{
    uint8_t *payload = telling->workspace->records.bytes;
    uint32_t done = 0;
    do {
        const uint32_t head[] = {text, done};
        uint32_t part = (uint32_t)smaller(size - done, FRAME_PAYLOAD_MAX - sizeof(head));
        memcpy(payload, head, sizeof(head));
        memcpy(payload + sizeof(head), bytes + done, part);
        telling->sink->send(telling->sink->context, FRAME_INFO_TEXT, payload,
                            part + (uint32_t)sizeof(head));
        done += part;
    } while (done < size);
}

/* Whether the header has this bit, and no reader of this project knows it. */
static bool is_unknown_bit(const struct qcow2_header *h, uint32_t kind, uint32_t bit)
{
    const uint64_t set[] = {
        h->incompatible_features & ~QCOW2_INCOMPATIBLE_KNOWN,
        h->compatible_features & ~QCOW2_COMPATIBLE_LAZY_REFCOUNTS,
        h->autoclear_features & ~QCOW2_AUTOCLEAR_KNOWN,
    };
    return kind < 3 && bit < 64 && (set[kind] >> bit & 1);
}

static void tell_features(struct telling *telling, const uint8_t *table, uint32_t size)
{
    struct record_list *records = &telling->workspace->records;
    start_records(records, telling->sink, FRAME_INFO_FEATURES);
    for (uint32_t at = 0; at + QCOW2_FEATURE_NAME_SIZE <= size; at += QCOW2_FEATURE_NAME_SIZE) {
        if (!is_unknown_bit(&telling->image.header, table[at], table[at + 1]))
            continue;
        uint8_t *record = add_record(records, QCOW2_FEATURE_NAME_SIZE);
        if (record)
            memcpy(record, table + at, QCOW2_FEATURE_NAME_SIZE);
    }
    end_records(records);
}

static void tell_extensions(struct telling *telling)
{
    struct qcow2_image *image = &telling->image;
    struct extension extension;
    uint32_t at = image->header.header_length;
    while (next_extension(image, &at, &extension)) {
        const uint8_t *data =
            image->memory->header + extension.offset + QCOW2_EXTENSION_HEADER_SIZE;
        if (extension.type == QCOW2_EXTENSION_BACKING_FORMAT)
            tell_text(telling, INFO_TEXT_BACKING_FORMAT, data, extension.length);
        else if (extension.type == QCOW2_EXTENSION_DATA_FILE)
            tell_text(telling, INFO_TEXT_DATA_FILE, data, extension.length);
        else if (extension.type == QCOW2_EXTENSION_FEATURE_NAMES)
            tell_features(telling, data, extension.length);
    }
}

static void tell_backing_file(struct telling *telling)
{
    /* Wherever in the header's cluster it is, of which only a part is kept. */
    uint8_t *sectors = telling->workspace->sectors;
    uint64_t offset = telling->image.header.backing_file_offset;
    uint32_t size = telling->image.header.backing_file_size;
    uint32_t skipped = (uint32_t)(offset % SECTOR_SIZE);
    if (size && read_image(&telling->image.file, INSTAR_PHASE_PREPARE, offset - skipped, sectors,
                           skipped + size))
        tell_text(telling, INFO_TEXT_BACKING_FILE, sectors + skipped, size);
}

/* Copy bytes of the snapshot table; zeros where they cannot be read. */
static void copy_bytes(struct qcow2_image *image, uint8_t *to, uint64_t offset, uint32_t size)
{
    const uint8_t *bytes = size ? look(&image->file, &image->structures, offset, size) : 0;
    memset(to, 0, size);
    if (bytes)
        memcpy(to, bytes, size);
}

static void tell_snapshot(void *context, const struct snapshot *snapshot, uint32_t number)
{
    struct telling *telling = context;
    uint32_t name_size = snapshot->text_size - snapshot->id_size;
    struct InfoSnapshot head = {
        .l1_table_offset = snapshot->l1_table_offset,
        .vm_state_size = snapshot->vm_state_size,
        .disk_size = snapshot->disk_size,
        .vm_clock_nsec = snapshot->vm_clock_nsec,
        .icount = snapshot->icount,
        .date_sec = snapshot->date_sec,
        .date_nsec = snapshot->date_nsec,
        .l1_size = snapshot->l1_size,
        .id_size = (uint16_t)smaller(snapshot->id_size, INFO_SNAPSHOT_ID_MAX),
        .name_size = (uint16_t)smaller(name_size, INFO_SNAPSHOT_NAME_MAX),
    };
    uint64_t text = snapshot->offset + QCOW2_SNAPSHOT_HEADER_SIZE + snapshot->extra_data_size;
    uint32_t size = (uint32_t)sizeof(head) + head.id_size + head.name_size;
    check_l1_table(&telling->image, snapshot, number);
    uint8_t *record = add_record(&telling->workspace->records, size);
    if (!record)
        return;
    memcpy(record, &head, sizeof(head));
    copy_bytes(&telling->image, record + sizeof(head), text, head.id_size);
    copy_bytes(&telling->image, record + sizeof(head) + head.id_size, text + snapshot->id_size,
               head.name_size);
    telling->result->snapshots_told++;
}

static void tell_snapshots(struct telling *telling)
{
    struct verdict *verdict = telling->image.file.verdict;
    uint32_t refused = verdict->count;
    start_records(&telling->workspace->records, telling->sink, FRAME_INFO_SNAPSHOTS);
    check_snapshots(&telling->image, tell_snapshot, telling);
    end_records(&telling->workspace->records);
    if (verdict->count == refused)
        telling->result->read |= INFO_READ_SNAPSHOTS;
}

static bool tell_bitmap(void *context, const struct bitmap *bitmap)
{
    struct telling *telling = context;
    struct InfoBitmap head = {
        .table_offset = bitmap->table_offset,
        .table_entries = (uint32_t)bitmap->table_entries,
        .flags = bitmap->flags,
        .granularity_bits = bitmap->granularity_bits,
        .name_size = bitmap->name_size,
    };
    enum bitmap_fault fault;
    if (!judge_bitmap(&telling->image, bitmap, &telling->names, &fault))
        return false;
    if (fault != BITMAP_SOUND)
        return refuse_bitmaps(&telling->image);
    uint8_t *record =
        add_record(&telling->workspace->records, (uint32_t)sizeof(head) + head.name_size);
    if (record) {
        memcpy(record, &head, sizeof(head));
        memcpy(record + sizeof(head), bitmap->name, head.name_size);
        telling->result->bitmaps_told++;
    }
    return true;
}

static void tell_bitmaps(struct telling *telling)
{
    bool good = true;
    telling->result->nb_bitmaps = telling->image.header.nb_bitmaps;
    if (telling->image.header.nb_bitmaps) {
        start_records(&telling->workspace->records, telling->sink, FRAME_INFO_BITMAPS);
        good = start_names(&telling->image, &telling->names) &&
               walk_bitmaps(&telling->image, tell_bitmap, telling);
        end_records(&telling->workspace->records);
    }
    if (good)
        telling->result->read |= INFO_READ_BITMAPS;
}

/* Tell the LUKS header; refuse one that is not in the image, or not of version 1. */
static void tell_luks(struct telling *telling)
{
    static const uint8_t luks1[] = {'L', 'U', 'K', 'S', 0xba, 0xbe, 0, 1};
    const struct qcow2_header *h = &telling->image.header;
    uint8_t *sectors = telling->workspace->sectors;
    if (h->crypt_method != QCOW2_CRYPT_LUKS)
        return;
    bool present = h->crypto_offset >= h->cluster_size && h->crypto_length >= INFO_LUKS_SIZE;
    if (present && !read_image(&telling->image.file, INSTAR_PHASE_PREPARE, h->crypto_offset,
                               sectors, sizeof(telling->workspace->sectors)))
        return;
    if (!present || memcmp(sectors, luks1, sizeof(luks1)) != 0) {
        refuse(telling->image.file.verdict, REFUSAL_CRYPTO_EXTENSION, AMEND_ERROR_PARSE_FAILED,
               h->crypto_offset, QCOW2_EXTENSION_CRYPTO, h->crypto_length);
        return;
    }
    telling->result->crypto_offset = h->crypto_offset;
    telling->sink->send(telling->sink->context, FRAME_INFO_LUKS, sectors, INFO_LUKS_SIZE);
}

void tell_info(const struct inspection *inspection, struct info_workspace *workspace,
               struct InfoResult *result)
{
    struct telling telling = {
        .workspace = workspace,
        .sink = inspection->sink,
        .result = result,
    };
    struct verdict *verdict = inspection->verdict;
    struct qcow2_image *image = &telling.image;
    memset(result, 0, sizeof(*result));
    result->magic = INFO_RESULT_MAGIC;
    start_verdict(verdict);
    open_qcow2(image, &workspace->image, inspection->io, verdict, inspection->work_max);
    image->file.read_only = true;
    if (parse_header(image)) {
        result->read |= INFO_READ_HEADER;
        tell_backing_file(&telling);
        if (parse_extensions(image)) {
            result->read |= INFO_READ_EXTENSIONS;
            tell_extensions(&telling);
            tell_luks(&telling);
            tell_bitmaps(&telling);
        }
        tell_snapshots(&telling);
    }
    result->refusal_count = verdict->count;
}
