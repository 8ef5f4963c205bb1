/* Pure, either side: lays out the amended header so that one sector switches to it.
 *
 * INSTAR_PHASE_PREPARE writes only where the image, as it is, refers to nothing; INSTAR_PHASE_SWITCH
 * is sector 0, which alone makes the new layout the valid one. docs/qcow2.md draws each layout.
 */
#include "amend/layout.h"

#include <string.h>

#include "bits.h"
#include "image/writes.h"
#include "qcow2/bytes.h"
#include "qcow2/extensions.h"
#include "qcow2/header.h"
#include "qcow2/overlap.h"
#include "qcow2/qcow2.h"

#define SECTOR QCOW2_SECTOR_SIZE

/* Whether a way to lay the header out is one for this image. */
enum fit {
    FITS, /* and all is staged */
    DOES_NOT_FIT,
    REFUSED,
};

/* A run of bytes in the header cluster. */
struct span {
    uint32_t start;
    uint32_t end;
};

static uint32_t larger(uint32_t a, uint32_t b)
{
    return a > b ? a : b;
}

static uint32_t smaller(uint32_t a, uint32_t b)
{
    return a < b ? a : b;
}

static struct span name_span(const struct qcow2_header *h)
{
    uint32_t start = (uint32_t)h->backing_file_offset;
    return (struct span){start, start + h->backing_file_size};
}

/* Whether the name stays where it is; `end` is where the extensions will end, if they end before it. */
static bool name_stays(const struct layout *layout, uint32_t end)
{
    uint64_t name = layout->image->header.backing_file_offset;
    return !layout->target->backing_file.changed && (!name || name >= end);
}

static uint32_t name_size(const struct layout *layout)
{
    const struct target_text *name = &layout->target->backing_file;
    return name->changed ? name->length : layout->image->header.backing_file_size;
}

/* Feature names are of use to error messages only, and version 2 has no features. */
static bool is_carried(const struct layout *layout, const struct extension *extension)
{
    const struct target *target = layout->target;
    return extension->type != QCOW2_EXTENSION_FEATURE_NAMES &&
           !(target->drop_bitmaps && extension->type == QCOW2_EXTENSION_BITMAPS) &&
           !(target->backing_format.changed && extension->type == QCOW2_EXTENSION_BACKING_FORMAT) &&
           !(target->data_file.changed && extension->type == QCOW2_EXTENSION_DATA_FILE);
}

/* An extension of the new header; `size` counts its header and padding too. */
struct piece {
    uint32_t type;
    uint32_t length;
    uint32_t size;
    const uint8_t *data;
};

/* How far one is in the extensions of the new header: new ones first, then those that are carried. */
struct cursor {
    uint32_t fresh;
    uint32_t at; /* in the old header */
};

static struct cursor first_piece(const struct layout *layout)
{
    return (struct cursor){0, layout->image->header.header_length};
}

static bool next_piece(const struct layout *layout, struct cursor *cursor, struct piece *piece)
{
    const struct {
        uint32_t type;
        const struct target_text *text;
    } fresh[] = {
        {QCOW2_EXTENSION_BACKING_FORMAT, &layout->target->backing_format},
        {QCOW2_EXTENSION_DATA_FILE, &layout->target->data_file},
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
    while (next_extension(layout->image, &cursor->at, &extension)) {
        const uint8_t *raw = layout->image->memory->header + extension.offset;
        if (!is_carried(layout, &extension))
            continue;
        *piece = (struct piece){extension.type, extension.length, extension.size,
                                raw + QCOW2_EXTENSION_HEADER_SIZE};
        return true;
    }
    return false;
}

/* Of all extensions of the new header, in bytes. */
static uint32_t extensions_size(const struct layout *layout)
{
    struct cursor cursor = first_piece(layout);
    struct piece piece;
    uint32_t size = 0;
    while (next_piece(layout, &cursor, &piece))
        size += piece.size;
    return size;
}

/* Put the extensions from the cursor on at `to`, with clean padding, as long as they end before
 * `limit`; returns where the last one ends. */
static uint32_t put_extensions(struct layout *layout, uint32_t to, struct cursor from,
                               uint32_t limit)
{
    struct piece piece;
    while (next_piece(layout, &from, &piece) && to + piece.size <= limit) {
        uint8_t *out = layout->new_header + to;
        uint32_t used = QCOW2_EXTENSION_HEADER_SIZE + piece.length;
        store_be32(out, piece.type);
        store_be32(out + 4, piece.length);
        memcpy(out + QCOW2_EXTENSION_HEADER_SIZE, piece.data, piece.length);
        memset(out + used, 0, piece.size - used);
        to += piece.size;
    }
    return to;
}

/* An extension that covers [at, end) with whatever is there, for readers to skip. */
static void put_filler(struct layout *layout, uint32_t at, uint32_t end)
{
    uint8_t *to = layout->new_header + at;
    store_be32(to, QCOW2_EXTENSION_FEATURE_NAMES);
    store_be32(to + 4, end - at - QCOW2_EXTENSION_HEADER_SIZE);
}

static uint32_t put_end_marker(struct layout *layout, uint32_t at)
{
    memset(layout->new_header + at, 0, QCOW2_EXTENSION_HEADER_SIZE);
    return at + QCOW2_EXTENSION_HEADER_SIZE;
}

/* Put the backing file name, if there shall be one, at `at`; one that has to move has been read. */
static void put_name(struct layout *layout, uint32_t at)
{
    const struct qcow2_header *h = &layout->image->header;
    const struct target_text *name = &layout->target->backing_file;
    const uint8_t *old = layout->image->memory->header + h->backing_file_offset;
    if (name->changed ? !name->length : !h->backing_file_offset)
        return;
    memcpy(layout->new_header + at, name->changed ? name->bytes : old, name_size(layout));
    store_be64(layout->new_header + QCOW2_OFFSET_BACKING_FILE_OFFSET, at);
    store_be32(layout->new_header + QCOW2_OFFSET_BACKING_FILE_SIZE, name_size(layout));
}

static bool changes_version(const struct layout *layout)
{
    return layout->target->version != layout->image->header.version;
}

/* The fields that both versions have. */
static void put_fields(uint8_t *new, const struct target *target)
{
    store_be32(new + QCOW2_OFFSET_VERSION, target->version);
    store_be64(new + QCOW2_OFFSET_SIZE, target->size);
    store_be32(new + QCOW2_OFFSET_L1_SIZE, target->l1_size);
    store_be64(new + QCOW2_OFFSET_L1_TABLE_OFFSET, target->l1_table_offset);
    store_be64(new + QCOW2_OFFSET_REFCOUNT_TABLE_OFFSET, target->refcount_table_offset);
    store_be32(new + QCOW2_OFFSET_REFCOUNT_TABLE_CLUSTERS, target->refcount_table_clusters);
    store_be64(new + QCOW2_OFFSET_SNAPSHOTS_OFFSET, target->snapshots_offset);
}

/* Start the new header: sector 0 with the target's fields and nothing behind them, but for a name
 * that stays there; the rest as it is. */
static void start_header(struct layout *layout, bool keep_name)
{
    const struct target *target = layout->target;
    const uint8_t *old = layout->image->memory->header;
    uint8_t *new = layout->new_header;
    struct span name = name_span(&layout->image->header);
    uint32_t kept = changes_version(layout) ? QCOW2_V2_HEADER_LENGTH : layout->fields_end;
    memcpy(new, old, layout->image->header_loaded);
    if (kept < SECTOR)
        memset(new + kept, 0, SECTOR - kept);
    if (target->backing_file.changed) {
        store_be64(new + QCOW2_OFFSET_BACKING_FILE_OFFSET, 0);
        store_be32(new + QCOW2_OFFSET_BACKING_FILE_SIZE, 0);
    }
    if (keep_name && name.start < SECTOR)
        memcpy(new + name.start, old + name.start, smaller(name.end, SECTOR) - name.start);
    put_fields(new, target);
    if (target->version == 2)
        return;
    store_be64(new + QCOW2_OFFSET_INCOMPATIBLE_FEATURES, target->incompatible_features);
    store_be64(new + QCOW2_OFFSET_COMPATIBLE_FEATURES, target->compatible_features);
    store_be64(new + QCOW2_OFFSET_AUTOCLEAR_FEATURES, target->autoclear_features);
    store_be32(new + QCOW2_OFFSET_REFCOUNT_ORDER, target->refcount_order);
    if (!changes_version(layout))
        return;
    store_be32(new + QCOW2_OFFSET_HEADER_LENGTH, QCOW2_V3_HEADER_LENGTH);
}

/* The largest span behind sector 0 that neither the old extensions nor the name use, from 8-aligned
 * `start` on; before or behind the name. */
static struct span free_span(const struct qcow2_header *h, bool after_name)
{
    struct span name = name_span(h);
    uint32_t limit = smaller(h->cluster_size, HEADER_SIZE);
    uint32_t start = larger(h->extensions_end, SECTOR);
    if (name.start && after_name)
        start = larger(start, name.end);
    else if (name.start)
        limit = smaller(limit, name.start);
    start = (uint32_t)round_up(start, 8);
    return (struct span){start, larger(start, limit)};
}

static uint32_t span_size(struct span span)
{
    return span.end - span.start;
}

/* Whether all bytes that the old header does not use, and that change, are zeros. */
static bool is_empty(const struct layout *layout, struct span span)
{
    const uint8_t *old = layout->image->memory->header, *new = layout->new_header;
    struct span name = name_span(&layout->image->header);
    uint32_t end = (uint32_t)round_up(span.end, SECTOR);
    for (uint32_t at = larger(span.start, layout->image->header.extensions_end); at < end; at++)
        if (old[at] && old[at] != new[at] && (at < name.start || at >= name.end))
            return false;
    return true;
}

/* Room for a name outside sector 0 and apart from the old one. False: there is none. */
static bool find_room(const struct layout *layout, struct span *slack)
{
    for (int after_name = 0; after_name < 2; after_name++) {
        *slack = free_span(&layout->image->header, after_name);
        if (span_size(*slack) >= name_size(layout)) {
            slack->end = slack->start + name_size(layout);
            return true;
        }
    }
    return false;
}

static bool write_span(struct layout *layout, uint32_t phase, struct span span)
{
    uint32_t start = span.start & ~(SECTOR - 1);
    return write_image(&layout->image->file, phase, start, layout->new_header + start,
                       (uint32_t)round_up(span.end, SECTOR) - start);
}

/* Write `slack`, unless it is empty, before all else; then switch with the sectors of `header`. */
static enum fit finish(struct layout *layout, struct span slack, struct span header)
{
    layout->atomic = header.end <= SECTOR;
    /* Fields are the header's own, whoever else is in its cluster. */
    if (layout->fields_end &&
        !is_header_alone(layout->image, is_empty(layout, slack) && is_empty(layout, header)))
        return REFUSED;
    if (span_size(slack) && !write_span(layout, INSTAR_PHASE_PREPARE, slack))
        return REFUSED;
    return write_span(layout, INSTAR_PHASE_SWITCH, header) ? FITS : REFUSED;
}

/* All extensions in sector 0; the name where it is, in sector 0 too, or copied into slack. */
static enum fit plan_in_sector(struct layout *layout)
{
    struct span slack = {0, 0};
    uint32_t end = layout->fields_end + extensions_size(layout) + QCOW2_EXTENSION_HEADER_SIZE;
    bool stays = name_stays(layout, end);
    if (end > SECTOR)
        return DOES_NOT_FIT;
    if (!stays && end + name_size(layout) > SECTOR && !find_room(layout, &slack))
        return DOES_NOT_FIT;
    if (!load_header(layout->image, slack.end))
        return REFUSED;
    start_header(layout, stays);
    put_end_marker(layout,
                   put_extensions(layout, layout->fields_end, first_piece(layout), end));
    if (!stays)
        put_name(layout, slack.end ? slack.start : end);
    return finish(layout, slack, (struct span){0, SECTOR});
}

/* Downgrade: the extensions stay where they are, behind a filler over the former fields; one that is
 * given up becomes a filler too, unless it lies after sector 0. */
static enum fit plan_bridge(struct layout *layout)
{
    const struct target *target = layout->target;
    uint32_t extensions = layout->image->header.header_length;
    struct extension extension;
    if (target->version != 2 || !changes_version(layout) || changes_text(target))
        return DOES_NOT_FIT;
    start_header(layout, true);
    if (extensions < SECTOR)
        memcpy(layout->new_header + extensions, layout->image->memory->header + extensions,
               SECTOR - extensions);
    for (uint32_t at = extensions; next_extension(layout->image, &at, &extension);) {
        if (is_carried(layout, &extension))
            continue;
        if (extension.offset < SECTOR)
            store_be32(layout->new_header + extension.offset, QCOW2_EXTENSION_FEATURE_NAMES);
        else if (extension.type != QCOW2_EXTENSION_FEATURE_NAMES)
            return DOES_NOT_FIT;
    }
    put_filler(layout, QCOW2_V2_HEADER_LENGTH, extensions);
    return finish(layout, (struct span){0, 0}, (struct span){0, SECTOR});
}

/* What fits of the extensions goes into sector 0, behind it a filler over all that the old
 * header still uses, and in slack behind that the other extensions, with the name if it has to. */
static enum fit plan_jump(struct layout *layout, bool after_name)
{
    const struct qcow2_header *h = &layout->image->header;
    const uint32_t last = SECTOR - QCOW2_EXTENSION_HEADER_SIZE; /* where the filler may start */
    struct span slack = free_span(h, after_name);
    struct cursor from = first_piece(layout), ahead = from;
    struct piece piece;
    uint32_t in_sector = layout->fields_end;
    for (; next_piece(layout, &ahead, &piece) && in_sector + piece.size <= last; from = ahead)
        in_sector += piece.size;
    uint32_t tail = layout->fields_end + extensions_size(layout) - in_sector;
    bool stays = !after_name && name_stays(layout, 0);
    uint32_t needed = tail + QCOW2_EXTENSION_HEADER_SIZE + (stays ? 0 : name_size(layout));
    if (in_sector > last || span_size(slack) < needed)
        return DOES_NOT_FIT;
    slack.end = slack.start + needed;
    if (!load_header(layout->image, slack.end))
        return REFUSED;
    start_header(layout, stays);
    put_extensions(layout, layout->fields_end, first_piece(layout), in_sector);
    put_filler(layout, in_sector, slack.start);
    uint32_t end = put_end_marker(layout, put_extensions(layout, slack.start, from, slack.end));
    if (!stays)
        put_name(layout, end);
    return finish(layout, slack, (struct span){0, SECTOR});
}

/* Without room for both layouts: the header cluster is written in one go, as qemu does, and
 * a power cut in the middle can tear it. */
static enum fit plan_rewrite(struct layout *layout)
{
    const struct qcow2_header *h = &layout->image->header;
    uint32_t end = layout->fields_end + extensions_size(layout) + QCOW2_EXTENSION_HEADER_SIZE;
    bool stays = name_stays(layout, end);
    uint32_t used = stays ? end : end + name_size(layout);
    if (used > smaller(h->cluster_size, HEADER_SIZE)) {
        refuse(layout->image->file.verdict, REFUSAL_NO_ROOM, AMEND_ERROR_EXTENSION_RELOCATION, used,
               h->cluster_size, 0);
        return REFUSED;
    }
    if (!load_header(layout->image, used))
        return REFUSED;
    start_header(layout, stays);
    put_end_marker(layout,
                   put_extensions(layout, layout->fields_end, first_piece(layout), end));
    if (!stays)
        put_name(layout, end);
    return finish(layout, (struct span){0, 0}, (struct span){0, used});
}

static enum fit plan_jump_before_name(struct layout *layout)
{
    return plan_jump(layout, false);
}

static enum fit plan_jump_after_name(struct layout *layout)
{
    return plan_jump(layout, true);
}

/* The first one that fits is taken; the last one always does, or is refused. */
static enum fit (*const layouts[])(struct layout *layout) = {
    plan_in_sector, plan_bridge, plan_jump_before_name, plan_jump_after_name, plan_rewrite,
};

static bool plan_anew(struct layout *layout)
{
    enum fit fit = DOES_NOT_FIT;
    layout->fields_end = layout->image->header.header_length;
    if (changes_version(layout))
        layout->fields_end =
            layout->target->version == 2 ? QCOW2_V2_HEADER_LENGTH : QCOW2_V3_HEADER_LENGTH;
    for (uint32_t i = 0; i < sizeof(layouts) / sizeof(layouts[0]) && fit == DOES_NOT_FIT; i++)
        fit = layouts[i](layout);
    return fit == FITS;
}

/* Fields change, and nothing moves in the header. */
static bool plan_field_change(struct layout *layout)
{
    uint8_t *new = layout->new_header;
    memcpy(new, layout->image->memory->header, SECTOR);
    put_fields(new, layout->target);
    if (layout->target->version >= 3) {
        store_be64(new + QCOW2_OFFSET_INCOMPATIBLE_FEATURES, layout->target->incompatible_features);
        store_be64(new + QCOW2_OFFSET_COMPATIBLE_FEATURES, layout->target->compatible_features);
        store_be64(new + QCOW2_OFFSET_AUTOCLEAR_FEATURES, layout->target->autoclear_features);
        store_be32(new + QCOW2_OFFSET_REFCOUNT_ORDER, layout->target->refcount_order);
    }
    return finish(layout, (struct span){0, 0}, (struct span){0, SECTOR}) == FITS;
}

bool lay_out_header(struct layout *layout)
{
    const struct target *target = layout->target;
    bool anew = changes_version(layout) || changes_text(target) || target->drop_bitmaps;
    return anew ? plan_anew(layout) : plan_field_change(layout);
}
