/* Pure, either side: lays out the amended header so that one sector switches to it.
 *
 * INSTAR_PHASE_PREPARE writes only where the image, as it is, refers to nothing; INSTAR_PHASE_SWITCH
 * is sector 0, which alone makes the new layout the valid one. docs/qcow2.md draws each layout.
 */
#include <string.h>

#include "qcow2/bytes.h"
#include "amend/internal.h"

#define SECTOR QCOW2_SECTOR_SIZE

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

/* Feature names are of use to error messages only, and version 2 has no features. */
static bool is_carried(const struct planner *planner, const struct extension *extension)
{
    return extension->type != QCOW2_EXTENSION_FEATURE_NAMES &&
           !(planner->drop_bitmaps && extension->type == QCOW2_EXTENSION_BITMAPS);
}

static uint32_t carried_size(const struct planner *planner)
{
    struct extension extension;
    uint32_t at = planner->header.header_length, size = 0;
    while (next_extension(planner, &at, &extension))
        size += is_carried(planner, &extension) ? extension.size : 0;
    return size;
}

/* Put the carried extensions from old offset `from` on at `to`, with clean padding, as long as they
 * end before `limit`; returns where the last one ends. */
static uint32_t put_extensions(struct planner *planner, uint32_t to, uint32_t from, uint32_t limit)
{
    struct extension extension;
    while (next_extension(planner, &from, &extension)) {
        uint8_t *out = planner->workspace->new_header + to;
        uint32_t used = QCOW2_EXTENSION_HEADER_SIZE + extension.length;
        if (!is_carried(planner, &extension))
            continue;
        if (to + extension.size > limit)
            break;
        memcpy(out, planner->workspace->old_header + extension.offset, used);
        memset(out + used, 0, extension.size - used);
        to += extension.size;
    }
    return to;
}

/* An extension that covers [at, end) with whatever is there, for readers to skip. */
static void put_filler(struct planner *planner, uint32_t at, uint32_t end)
{
    uint8_t *to = planner->workspace->new_header + at;
    store_be32(to, QCOW2_EXTENSION_FEATURE_NAMES);
    store_be32(to + 4, end - at - QCOW2_EXTENSION_HEADER_SIZE);
}

static uint32_t put_end_marker(struct planner *planner, uint32_t at)
{
    memset(planner->workspace->new_header + at, 0, QCOW2_EXTENSION_HEADER_SIZE);
    return at + QCOW2_EXTENSION_HEADER_SIZE;
}

/* Copy the backing file name to `at`; a name that has to move lies in what has been read. */
static void put_name(struct planner *planner, uint32_t at)
{
    const struct qcow2_header *h = &planner->header;
    struct planner_workspace *w = planner->workspace;
    memcpy(w->new_header + at, w->old_header + h->backing_file_offset, h->backing_file_size);
    store_be64(w->new_header + QCOW2_OFFSET_BACKING_FILE_OFFSET, at);
}

/* Start the new header: sector 0 with the target's fields and nothing behind them, but for a name
 * that stays there; the rest as it is. */
static void start_header(struct planner *planner, bool keep_name)
{
    const struct qcow2_header *h = &planner->header;
    const uint8_t *old = planner->workspace->old_header;
    uint8_t *new = planner->workspace->new_header;
    struct span name = name_span(h);
    memcpy(new, old, planner->header_loaded);
    memset(new + QCOW2_V2_HEADER_LENGTH, 0, SECTOR - QCOW2_V2_HEADER_LENGTH);
    if (keep_name && name.start < SECTOR)
        memcpy(new + name.start, old + name.start, smaller(name.end, SECTOR) - name.start);
    store_be32(new + QCOW2_OFFSET_VERSION, planner->target_version);
    if (planner->target_version == 2)
        return;
    memset(new + QCOW2_V2_HEADER_LENGTH, 0, QCOW2_V3_HEADER_LENGTH - QCOW2_V2_HEADER_LENGTH);
    store_be64(new + QCOW2_OFFSET_COMPATIBLE_FEATURES,
               planner->target_lazy ? QCOW2_COMPATIBLE_LAZY_REFCOUNTS : 0);
    store_be32(new + QCOW2_OFFSET_REFCOUNT_ORDER, QCOW2_REFCOUNT_ORDER_DEFAULT);
    store_be32(new + QCOW2_OFFSET_HEADER_LENGTH, QCOW2_V3_HEADER_LENGTH);
}

/* The largest span behind sector 0 that neither the old extensions nor the name use, from 8-aligned
 * `start` on; before or behind the name. */
static struct span free_span(const struct qcow2_header *h, bool behind_name)
{
    struct span name = name_span(h);
    uint32_t limit = smaller(h->cluster_size, PLANNER_HEADER_SIZE);
    uint32_t start = larger(h->extensions_end, SECTOR);
    if (name.start && behind_name)
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
static bool is_empty(const struct planner *planner, struct span span)
{
    const uint8_t *old = planner->workspace->old_header, *new = planner->workspace->new_header;
    struct span name = name_span(&planner->header);
    uint32_t end = (uint32_t)round_up(span.end, SECTOR);
    for (uint32_t at = larger(span.start, planner->header.extensions_end); at < end; at++)
        if (old[at] && old[at] != new[at] && (at < name.start || at >= name.end))
            return false;
    return true;
}

static bool write_span(struct planner *planner, uint32_t phase, struct span span)
{
    uint32_t start = span.start & ~(SECTOR - 1);
    return write_image(planner, phase, start, planner->workspace->new_header + start,
                       (uint32_t)round_up(span.end, SECTOR) - start);
}

/* Write `slack`, unless it is empty, before all else; then switch with the sectors of `header`. */
static bool finish(struct planner *planner, struct amend_plan *plan, struct span slack,
                   struct span header)
{
    plan->atomic = header.end <= SECTOR;
    /* Feature words are the header's own, whoever else is in its cluster. */
    return (planner->target_version == planner->header.version ||
            is_header_alone(planner, is_empty(planner, slack) && is_empty(planner, header))) &&
           (span_size(slack) == 0 || write_span(planner, INSTAR_PHASE_PREPARE, slack)) &&
           write_span(planner, INSTAR_PHASE_SWITCH, header);
}

/* All extensions in sector 0; the name where it is, in sector 0 too, or copied into slack. */
static bool plan_in_sector(struct planner *planner, struct amend_plan *plan, uint32_t fields_end)
{
    const struct qcow2_header *h = &planner->header;
    struct span name = name_span(h), slack = {0, 0};
    uint32_t end = fields_end + carried_size(planner) + QCOW2_EXTENSION_HEADER_SIZE;
    uint32_t new_name = name.start;
    if (end > SECTOR)
        return false;
    if (name.start && name.start < end) {
        new_name = end;
        if (end + h->backing_file_size > SECTOR) {
            slack = free_span(h, true);
            if (span_size(slack) < h->backing_file_size)
                return false;
            new_name = slack.start;
            slack.end = new_name + h->backing_file_size;
        }
    }
    if (!load_header(planner, slack.end))
        return false;
    start_header(planner, new_name == name.start);
    put_end_marker(planner, put_extensions(planner, fields_end, h->header_length, end));
    if (new_name != name.start)
        put_name(planner, new_name);
    return finish(planner, plan, slack, (struct span){0, SECTOR});
}

/* Downgrade: the extensions stay where they are, behind a filler over the former fields; one that is
 * given up becomes a filler too. False: that one lies behind sector 0. */
static bool plan_bridge(struct planner *planner, struct amend_plan *plan)
{
    uint32_t extensions = planner->header.header_length;
    struct extension extension;
    start_header(planner, true);
    if (extensions < SECTOR)
        memcpy(planner->workspace->new_header + extensions,
               planner->workspace->old_header + extensions, SECTOR - extensions);
    for (uint32_t at = extensions; next_extension(planner, &at, &extension);) {
        if (is_carried(planner, &extension))
            continue;
        if (extension.offset < SECTOR)
            store_be32(planner->workspace->new_header + extension.offset,
                       QCOW2_EXTENSION_FEATURE_NAMES);
        else if (extension.type != QCOW2_EXTENSION_FEATURE_NAMES)
            return false;
    }
    put_filler(planner, QCOW2_V2_HEADER_LENGTH, extensions);
    return finish(planner, plan, (struct span){0, 0}, (struct span){0, SECTOR});
}

/* What fits of the extensions goes into sector 0, behind it a filler over all that the old
 * header still uses, and in slack behind that the other extensions, with the name if it has to. */
static bool plan_jump(struct planner *planner, struct amend_plan *plan, uint32_t fields_end,
                      bool behind_name)
{
    const struct qcow2_header *h = &planner->header;
    const uint32_t last = SECTOR - QCOW2_EXTENSION_HEADER_SIZE; /* where the filler may start */
    struct span slack = free_span(h, behind_name);
    uint32_t from = h->header_length;
    struct extension extension;
    uint32_t in_sector = fields_end;
    for (uint32_t at = from; next_extension(planner, &at, &extension); from = at) {
        if (in_sector + (is_carried(planner, &extension) ? extension.size : 0) > last)
            break;
        in_sector += is_carried(planner, &extension) ? extension.size : 0;
    }
    uint32_t tail = fields_end + carried_size(planner) - in_sector;
    bool move_name = h->backing_file_offset && behind_name;
    uint32_t needed = tail + QCOW2_EXTENSION_HEADER_SIZE + (move_name ? h->backing_file_size : 0);
    if (span_size(slack) < needed)
        return false;
    slack.end = slack.start + needed;
    if (!load_header(planner, slack.end))
        return false;
    start_header(planner, !move_name);
    put_extensions(planner, fields_end, h->header_length, in_sector);
    put_filler(planner, in_sector, slack.start);
    uint32_t end = put_end_marker(planner, put_extensions(planner, slack.start, from, slack.end));
    if (move_name)
        put_name(planner, end);
    return finish(planner, plan, slack, (struct span){0, SECTOR});
}

/* Without room for both layouts: the header cluster is written in one go, as qemu does, and
 * a power cut in the middle can tear it. */
static bool plan_rewrite(struct planner *planner, struct amend_plan *plan, uint32_t fields_end)
{
    const struct qcow2_header *h = &planner->header;
    struct span name = name_span(h);
    uint32_t end = fields_end + carried_size(planner) + QCOW2_EXTENSION_HEADER_SIZE;
    bool move_name = name.start && name.start < end;
    uint32_t used = move_name ? end + h->backing_file_size : end;
    if (used > smaller(h->cluster_size, PLANNER_HEADER_SIZE)) {
        refuse(planner, REFUSAL_NO_ROOM, AMEND_ERROR_EXTENSION_RELOCATION, used, h->cluster_size,
               0);
        return false;
    }
    if (!load_header(planner, used))
        return false;
    start_header(planner, !move_name);
    put_end_marker(planner, put_extensions(planner, fields_end, h->header_length, end));
    if (move_name)
        put_name(planner, end);
    return finish(planner, plan, (struct span){0, 0}, (struct span){0, used});
}

bool plan_version_change(struct planner *planner, struct amend_plan *plan)
{
    bool downgrade = planner->target_version == 2;
    uint32_t fields_end = downgrade ? QCOW2_V2_HEADER_LENGTH : QCOW2_V3_HEADER_LENGTH;
    (void)(plan_in_sector(planner, plan, fields_end) ||
           (downgrade && plan_bridge(planner, plan)) ||
           plan_jump(planner, plan, fields_end, false) ||
           plan_jump(planner, plan, fields_end, true) || plan_rewrite(planner, plan, fields_end));
    /* A layout may also have been passed over because a read failed. */
    return planner->verdict->count == 0;
}

bool plan_feature_change(struct planner *planner, struct amend_plan *plan)
{
    uint8_t *new = planner->workspace->new_header;
    memcpy(new, planner->workspace->old_header, SECTOR);
    store_be64(new + QCOW2_OFFSET_COMPATIBLE_FEATURES, plan->compatible_features);
    store_be64(new + QCOW2_OFFSET_AUTOCLEAR_FEATURES, plan->autoclear_features);
    return finish(planner, plan, (struct span){0, 0}, (struct span){0, SECTOR});
}
