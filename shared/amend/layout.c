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

/* Whether a way to lay the header out is one for this image. */
enum fit {
    FITS, /* and all is staged */
    DOES_NOT_FIT,
    REFUSED,
};

/* The largest span after sector 0 that neither the old extensions nor the name use, aligned to 8;
 * before or after the name. */
static struct span free_span(const struct qcow2_header *h, bool after_name)
{
    struct span name = name_span(h);
    uint64_t limit = smaller(h->cluster_size, HEADER_SIZE);
    uint64_t start = larger(h->extensions_end, SECTOR_SIZE);
    if (name.start && after_name)
        start = larger(start, name.end);
    else if (name.start)
        limit = smaller(limit, name.start);
    start = round_up(start, 8);
    return (struct span){(uint32_t)start, (uint32_t)larger(start, limit)};
}

static uint32_t span_size(struct span span)
{
    return span.end - span.start;
}

/* Whether all bytes that the old header does not use, and that change, are zeros. */
static bool is_empty(const struct new_header *new, struct span span)
{
    const uint8_t *old = new->image->memory->header, *bytes = new->bytes;
    struct span name = name_span(&new->image->header);
    uint64_t end = round_up(span.end, SECTOR_SIZE);
    for (uint64_t at = larger(span.start, new->image->header.extensions_end); at < end; at++)
        if (old[at] && old[at] != bytes[at] && (at < name.start || at >= name.end))
            return false;
    return true;
}

/* Room for a name outside sector 0 and apart from the old one. False: there is none. */
static bool find_room(const struct new_header *new, struct span *slack)
{
    for (int after_name = 0; after_name < 2; after_name++) {
        *slack = free_span(&new->image->header, after_name);
        if (span_size(*slack) >= name_size(new)) {
            slack->end = slack->start + name_size(new);
            return true;
        }
    }
    return false;
}

static bool write_span(struct new_header *new, uint32_t phase, struct span span)
{
    uint32_t start = span.start & ~(SECTOR_SIZE - 1);
    return write_image(&new->image->file, phase, start, new->bytes + start,
                       (uint32_t)round_up(span.end, SECTOR_SIZE) - start);
}

/* Write `slack`, unless it is empty, before all else; then switch with the sectors of `header`. */
static enum fit finish(struct new_header *new, struct span slack, struct span header)
{
    new->atomic = header.end <= SECTOR_SIZE;
    /* Fields are the header's own, whoever else is in its cluster. */
    if (new->fields_end &&
        !is_header_alone(new->image, is_empty(new, slack) && is_empty(new, header)))
        return REFUSED;
    if (span_size(slack) && !write_span(new, INSTAR_PHASE_PREPARE, slack))
        return REFUSED;
    return write_span(new, INSTAR_PHASE_SWITCH, header) ? FITS : REFUSED;
}

/* All extensions in sector 0; the name where it is, in sector 0 too, or copied into slack. */
static enum fit plan_in_sector(struct new_header *new)
{
    struct span slack = {0, 0};
    uint32_t end = new->fields_end + extensions_size(new) + QCOW2_EXTENSION_HEADER_SIZE;
    bool stays = name_stays(new, end);
    if (end > SECTOR_SIZE)
        return DOES_NOT_FIT;
    if (!stays && end + name_size(new) > SECTOR_SIZE && !find_room(new, &slack))
        return DOES_NOT_FIT;
    if (!load_header(new->image, slack.end))
        return REFUSED;
    start_header(new, stays);
    put_end_marker(new, put_extensions(new, new->fields_end, first_piece(new), end));
    if (!stays)
        put_name(new, slack.end ? slack.start : end);
    return finish(new, slack, (struct span){0, SECTOR_SIZE});
}

/* Downgrade: the extensions stay where they are, after a filler over the former fields; one that is
 * given up becomes a filler too, unless it lies after sector 0. */
static enum fit plan_bridge(struct new_header *new)
{
    const struct target *target = new->target;
    uint32_t extensions = new->image->header.header_length;
    struct extension extension;
    if (target->version != 2 || !changes_version(new) || changes_text(target))
        return DOES_NOT_FIT;
    start_header(new, true);
    if (extensions < SECTOR_SIZE)
        memcpy(new->bytes + extensions, new->image->memory->header + extensions,
               SECTOR_SIZE - extensions);
    for (uint32_t at = extensions; next_extension(new->image, &at, &extension);) {
        if (is_carried(new, &extension))
            continue;
        if (extension.offset < SECTOR_SIZE)
            store_be32(new->bytes + extension.offset, QCOW2_EXTENSION_FEATURE_NAMES);
        else if (extension.type != QCOW2_EXTENSION_FEATURE_NAMES)
            return DOES_NOT_FIT;
    }
    put_filler(new, QCOW2_V2_HEADER_LENGTH, extensions);
    return finish(new, (struct span){0, 0}, (struct span){0, SECTOR_SIZE});
}

/* What fits of the extensions goes into sector 0, then a filler over all that the old header still
 * uses, and into slack after that the other extensions, with the name if it has to move. */
static enum fit plan_jump(struct new_header *new, bool after_name)
{
    const struct qcow2_header *h = &new->image->header;
    /* Where the filler may start. */
    const uint32_t last = SECTOR_SIZE - QCOW2_EXTENSION_HEADER_SIZE;
    struct span slack = free_span(h, after_name);
    struct cursor from = first_piece(new), ahead = from;
    struct piece piece;
    uint32_t in_sector = new->fields_end;
    for (; next_piece(new, &ahead, &piece) && in_sector + piece.size <= last; from = ahead)
        in_sector += piece.size;
    uint32_t tail = new->fields_end + extensions_size(new) - in_sector;
    bool stays = !after_name && name_stays(new, 0);
    uint32_t needed = tail + QCOW2_EXTENSION_HEADER_SIZE + (stays ? 0 : name_size(new));
    if (in_sector > last || span_size(slack) < needed)
        return DOES_NOT_FIT;
    slack.end = slack.start + needed;
    if (!load_header(new->image, slack.end))
        return REFUSED;
    start_header(new, stays);
    put_extensions(new, new->fields_end, first_piece(new), in_sector);
    put_filler(new, in_sector, slack.start);
    uint32_t end = put_end_marker(new, put_extensions(new, slack.start, from, slack.end));
    if (!stays)
        put_name(new, end);
    return finish(new, slack, (struct span){0, SECTOR_SIZE});
}

/* Without room for both layouts: the header cluster is written in one go, as qemu does, and
 * a power cut in the middle can tear it. */
static enum fit plan_rewrite(struct new_header *new)
{
    const struct qcow2_header *h = &new->image->header;
    uint32_t end = new->fields_end + extensions_size(new) + QCOW2_EXTENSION_HEADER_SIZE;
    bool stays = name_stays(new, end);
    uint32_t used = stays ? end : end + name_size(new);
    if (used > smaller(h->cluster_size, HEADER_SIZE)) {
        refuse(new->image->file.verdict, REFUSAL_NO_ROOM, AMEND_ERROR_EXTENSION_RELOCATION, used,
               h->cluster_size, 0);
        return REFUSED;
    }
    if (!load_header(new->image, used))
        return REFUSED;
    start_header(new, stays);
    put_end_marker(new, put_extensions(new, new->fields_end, first_piece(new), end));
    if (!stays)
        put_name(new, end);
    return finish(new, (struct span){0, 0}, (struct span){0, used});
}

static enum fit plan_jump_before_name(struct new_header *new)
{
    return plan_jump(new, false);
}

static enum fit plan_jump_after_name(struct new_header *new)
{
    return plan_jump(new, true);
}

/* The first one that fits is taken; the last one always does, or is refused. */
static enum fit (*const layouts[])(struct new_header *new) = {
    plan_in_sector, plan_bridge, plan_jump_before_name, plan_jump_after_name, plan_rewrite,
};

static bool plan_anew(struct new_header *new)
{
    enum fit fit = DOES_NOT_FIT;
    new->fields_end = new->image->header.header_length;
    if (changes_version(new))
        new->fields_end =
            new->target->version == 2 ? QCOW2_V2_HEADER_LENGTH : QCOW2_V3_HEADER_LENGTH;
    for (uint32_t i = 0; i < sizeof(layouts) / sizeof(layouts[0]) && fit == DOES_NOT_FIT; i++)
        fit = layouts[i](new);
    return fit == FITS;
}

/* Fields change, and nothing moves in the header. */
static bool plan_field_change(struct new_header *new)
{
    memcpy(new->bytes, new->image->memory->header, SECTOR_SIZE);
    put_fields(new);
    return finish(new, (struct span){0, 0}, (struct span){0, SECTOR_SIZE}) == FITS;
}

bool lay_out_header(struct new_header *new)
{
    const struct target *target = new->target;
    bool anew = changes_version(new) || changes_text(target) || target->drop_bitmaps;
    return anew ? plan_anew(new) : plan_field_change(new);
}
