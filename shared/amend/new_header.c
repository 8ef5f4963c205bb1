/* Pure, either side: puts the amended header together from the old one and the target. */
#include "amend/new_header.h"

#include <string.h>

#include "bits.h"
#include "qcow2/bytes.h"
#include "qcow2/qcow2.h"

struct span name_span(const struct qcow2_header *h)
{
    uint32_t start = (uint32_t)h->backing_file_offset;
    return (struct span){start, start + h->backing_file_size};
}

bool name_stays(const struct new_header *new, uint32_t end)
{
    uint64_t name = new->image->header.backing_file_offset;
    return !new->target->backing_file.changed && (!name || name >= end);
}

uint32_t name_size(const struct new_header *new)
{
    const struct target_text *name = &new->target->backing_file;
    return name->changed ? name->length : new->image->header.backing_file_size;
}

/* Feature names are of use to error messages only, and version 2 has no features. */
bool is_carried(const struct new_header *new, const struct extension *extension)
{
    const struct target *target = new->target;
    return extension->type != QCOW2_EXTENSION_FEATURE_NAMES &&
           !(target->drop_bitmaps && extension->type == QCOW2_EXTENSION_BITMAPS) &&
           !(target->backing_format.changed && extension->type == QCOW2_EXTENSION_BACKING_FORMAT) &&
           !(target->data_file.changed && extension->type == QCOW2_EXTENSION_DATA_FILE);
}

struct cursor first_piece(const struct new_header *new)
{
    return (struct cursor){0, new->image->header.header_length};
}

bool next_piece(const struct new_header *new, struct cursor *cursor, struct piece *piece)
{
    const struct {
        uint32_t type;
        const struct target_text *text;
    } fresh[] = {
        {QCOW2_EXTENSION_BACKING_FORMAT, &new->target->backing_format},
        {QCOW2_EXTENSION_DATA_FILE, &new->target->data_file},
    };
    struct extension extension;
    while (cursor->fresh < sizeof(fresh) / sizeof(*fresh)) {
        const struct target_text *text = fresh[cursor->fresh].text;
        uint32_t type = fresh[cursor->fresh++].type;
        if (!text->changed || !text->length)
            continue;
        uint32_t size = (uint32_t)round_up(QCOW2_EXTENSION_HEADER_SIZE + text->length, 8);
        *piece = (struct piece){type, text->length, size, text->bytes};
        return true;
    }
    while (next_extension(new->image, &cursor->at, &extension)) {
        const uint8_t *raw = new->image->memory->header + extension.offset;
        if (!is_carried(new, &extension))
            continue;
        *piece = (struct piece){extension.type, extension.length, extension.size,
                                raw + QCOW2_EXTENSION_HEADER_SIZE};
        return true;
    }
    return false;
}

uint32_t extensions_size(const struct new_header *new)
{
    struct cursor cursor = first_piece(new);
    struct piece piece;
    uint32_t size = 0;
    while (next_piece(new, &cursor, &piece))
        size += piece.size;
    return size;
}

uint32_t put_extensions(struct new_header *new, uint32_t to, struct cursor from, uint32_t limit)
{
    struct piece piece;
    while (next_piece(new, &from, &piece) && to + piece.size <= limit) {
        uint8_t *out = new->bytes + to;
        uint32_t used = QCOW2_EXTENSION_HEADER_SIZE + piece.length;
        store_be32(out, piece.type);
        store_be32(out + 4, piece.length);
        memcpy(out + QCOW2_EXTENSION_HEADER_SIZE, piece.data, piece.length);
        memset(out + used, 0, piece.size - used);
        to += piece.size;
    }
    return to;
}

void put_filler(struct new_header *new, uint32_t at, uint32_t end)
{
    uint8_t *to = new->bytes + at;
    store_be32(to, QCOW2_EXTENSION_FEATURE_NAMES);
    store_be32(to + 4, end - at - QCOW2_EXTENSION_HEADER_SIZE);
}

uint32_t put_end_marker(struct new_header *new, uint32_t at)
{
    memset(new->bytes + at, 0, QCOW2_EXTENSION_HEADER_SIZE);
    return at + QCOW2_EXTENSION_HEADER_SIZE;
}

void put_name(struct new_header *new, uint32_t at)
{
    const struct qcow2_header *h = &new->image->header;
    const struct target_text *name = &new->target->backing_file;
    const uint8_t *old = new->image->memory->header + h->backing_file_offset;
    if (name->changed ? !name->length : !h->backing_file_offset)
        return;
    memcpy(new->bytes + at, name->changed ? name->bytes : old, name_size(new));
    store_be64(new->bytes + QCOW2_OFFSET_BACKING_FILE_OFFSET, at);
    store_be32(new->bytes + QCOW2_OFFSET_BACKING_FILE_SIZE, name_size(new));
}

bool changes_version(const struct new_header *new)
{
    return new->target->version != new->image->header.version;
}

void put_fields(struct new_header *new)
{
    const struct target *target = new->target;
    uint8_t *bytes = new->bytes;
    store_be32(bytes + QCOW2_OFFSET_VERSION, target->version);
    store_be64(bytes + QCOW2_OFFSET_SIZE, target->size);
    store_be32(bytes + QCOW2_OFFSET_L1_SIZE, target->l1_size);
    store_be64(bytes + QCOW2_OFFSET_L1_TABLE_OFFSET, target->l1_table_offset);
    store_be64(bytes + QCOW2_OFFSET_REFCOUNT_TABLE_OFFSET, target->refcount_table_offset);
    store_be32(bytes + QCOW2_OFFSET_REFCOUNT_TABLE_CLUSTERS, target->refcount_table_clusters);
    store_be64(bytes + QCOW2_OFFSET_SNAPSHOTS_OFFSET, target->snapshots_offset);
    if (target->version >= 3) {
        store_be64(bytes + QCOW2_OFFSET_INCOMPATIBLE_FEATURES, target->incompatible_features);
        store_be64(bytes + QCOW2_OFFSET_COMPATIBLE_FEATURES, target->compatible_features);
        store_be64(bytes + QCOW2_OFFSET_AUTOCLEAR_FEATURES, target->autoclear_features);
        store_be32(bytes + QCOW2_OFFSET_REFCOUNT_ORDER, target->refcount_order);
    }
}

void start_header(struct new_header *new, bool keep_name)
{
    const struct target *target = new->target;
    const uint8_t *old = new->image->memory->header;
    uint8_t *bytes = new->bytes;
    struct span name = name_span(&new->image->header);
    uint32_t kept = changes_version(new) ? QCOW2_V2_HEADER_LENGTH : new->fields_end;
    memcpy(bytes, old, new->image->header_loaded);
    if (kept < SECTOR_SIZE)
        memset(bytes + kept, 0, SECTOR_SIZE - kept);
    if (target->backing_file.changed) {
        store_be64(bytes + QCOW2_OFFSET_BACKING_FILE_OFFSET, 0);
        store_be32(bytes + QCOW2_OFFSET_BACKING_FILE_SIZE, 0);
    }
    if (keep_name && name.start < SECTOR_SIZE)
        memcpy(bytes + name.start, old + name.start, smaller(name.end, SECTOR_SIZE) - name.start);
    put_fields(new);
    if (target->version >= 3 && changes_version(new))
        store_be32(bytes + QCOW2_OFFSET_HEADER_LENGTH, QCOW2_V3_HEADER_LENGTH);
}
