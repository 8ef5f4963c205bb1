/* Test side: see walker.h. Written from the specification, not from the planner. */
#include "walker.h"

#include <string.h>

#define FEATURE_NAMES UINT32_C(0x6803f857)
#define BITMAPS UINT32_C(0x23852875)
#define SECTOR 512u

struct step {
    uint64_t at;   /* of the next extension */
    uint64_t data; /* of this one */
    uint32_t type;
    uint32_t length;
};

static uint64_t big(const uint8_t *p, unsigned size)
{
    uint64_t value = 0;
    for (unsigned i = 0; i < size; i++)
        value = value << 8 | p[i];
    return value;
}

/* Copy the first bytes of the image, as far as anything but zeros can be. */
static void load_head(const struct sparse *image, struct view *view)
{
    uint64_t end = SECTOR;
    for (uint32_t i = 0; i < image->count; i++) {
        const struct chunk *c = &image->chunks[i];
        if (c->offset < HEADER_LIMIT && c->offset + c->length > end)
            end = c->offset + c->length;
    }
    view->loaded = end < HEADER_LIMIT ? (uint32_t)end : HEADER_LIMIT;
    sparse_read(image, 0, view->head, view->loaded);
}

static uint64_t head_bytes(const struct view *view, uint64_t at, unsigned size)
{
    uint64_t value = 0;
    for (unsigned i = 0; i < size; i++)
        value = value << 8 | (at + i < view->loaded ? view->head[at + i] : 0);
    return value;
}

/* False: the end marker, or the end of the area, to which `step->at` then points. */
static bool walk(const struct view *view, struct step *step)
{
    if (step->at >= view->extensions_limit)
        return false;
    step->type = (uint32_t)head_bytes(view, step->at, 4);
    step->length = (uint32_t)head_bytes(view, step->at + 4, 4);
    step->data = step->at + 8;
    step->at = step->data;
    if (step->type == 0)
        return false;
    PROMISE(step->data + step->length <= view->extensions_limit);
    PROMISE(step->data + step->length <= HEADER_LIMIT);
    step->at += ((uint64_t)step->length + 7) / 8 * 8;
    return true;
}

void view_header(const struct sparse *image, struct view *view)
{
    load_head(image, view);
    memset(view->without, 0, sizeof(view->without));
    const uint8_t *raw = view->head;
    PROMISE(memcmp(raw, "QFI\xfb", 4) == 0);
    view->version = (uint32_t)big(raw + 4, 4);
    PROMISE(view->version == 2 || view->version == 3);
    PROMISE(big(raw + 20, 4) >= 9 && big(raw + 20, 4) <= 21);
    view->cluster_size = UINT64_C(1) << big(raw + 20, 4);
    view->header_length = view->version == 2 ? 72 : (uint32_t)big(raw + 100, 4);
    PROMISE(view->version == 2 || (view->header_length >= 104 && view->header_length % 8 == 0));
    view->name_offset = big(raw + 8, 8);
    view->has_name = view->name_offset != 0;
    view->name_size = view->has_name ? (uint32_t)big(raw + 16, 4) : 0;
    PROMISE(view->name_size <= NAME_MAX_SIZE);
    PROMISE(view->name_offset <= view->cluster_size - view->name_size);
    sparse_read(image, view->name_offset, view->name, view->name_size);
    view->extensions_limit = view->has_name ? view->name_offset : view->cluster_size;
    PROMISE(view->header_length <= view->extensions_limit);
    struct step step = {.at = view->header_length};
    while (walk(view, &step))
        continue;
    view->extensions_end = step.at < view->extensions_limit ? step.at : view->extensions_limit;
}

bool same_name(const struct view *one, const struct view *other)
{
    return one->has_name == other->has_name && one->name_size == other->name_size &&
           memcmp(one->name, other->name, one->name_size) == 0;
}

/* Whether an extension of this type is left out; no type is 0. */
static bool is_without(const struct view *view, uint32_t type)
{
    for (unsigned i = 0; i < sizeof(view->without) / sizeof(view->without[0]); i++)
        if (view->without[i] == type)
            return true;
    return false;
}

static bool next_carried(const struct view *view, struct step *step)
{
    do
        if (!walk(view, step))
            return false;
    while (step->type == FEATURE_NAMES || is_without(view, step->type));
    return true;
}

bool has_text(const struct view *view, uint32_t type, const uint8_t *bytes, uint32_t length)
{
    bool same = length == 0; /* none is an empty one */
    for (struct step step = {.at = view->header_length}; walk(view, &step);) {
        if (step.type != type)
            continue;
        same = step.length >= length;
        for (uint32_t i = 0; same && i < length; i++)
            same = head_bytes(view, step.data + i, 1) == bytes[i];
        same &= step.length == length || head_bytes(view, step.data + length, 1) == 0;
    }
    return same;
}

bool has_bitmaps(const struct view *view)
{
    for (struct step step = {.at = view->header_length}; walk(view, &step);)
        if (step.type == BITMAPS)
            return true;
    return false;
}

bool same_extensions(const struct view *one, const struct view *other)
{
    struct step a = {.at = one->header_length}, b = {.at = other->header_length};
    for (;;) {
        bool more = next_carried(one, &a);
        if (more != next_carried(other, &b))
            return false;
        if (!more)
            return true;
        if (a.type != b.type || a.length != b.length)
            return false;
        for (uint32_t i = 0; i < a.length; i++)
            if (head_bytes(one, a.data + i, 1) != head_bytes(other, b.data + i, 1))
                return false;
    }
}

static uint64_t carried_size(const struct step *step)
{
    return 8 + ((uint64_t)step->length + 7) / 8 * 8;
}

uint64_t carried_bytes(const struct view *view)
{
    uint64_t size = 0;
    for (struct step step = {.at = view->header_length}; next_carried(view, &step);)
        size += carried_size(&step);
    return size;
}

bool changes_referred(const struct sparse *image, const struct view *view, uint64_t offset,
                      uint32_t length, const uint8_t *data)
{
    static uint8_t old[HEADER_LIMIT];
    const uint64_t parts[2][2] = {{0, view->extensions_end},
                                  {view->name_offset, view->name_offset + view->name_size}};
    sparse_read(image, offset, old, length);
    for (unsigned i = 0; i < 2; i++) {
        uint64_t first = parts[i][0] > offset ? parts[i][0] : offset;
        uint64_t last = parts[i][1] < offset + length ? parts[i][1] : offset + length;
        if (first < last && memcmp(old + (first - offset), data + (first - offset), last - first))
            return true;
    }
    return false;
}

static uint64_t up(uint64_t value)
{
    return (value + 7) / 8 * 8;
}

bool fits_one_sector_switch(const struct view *view)
{
    const uint64_t limit = view->cluster_size < HEADER_LIMIT ? view->cluster_size : HEADER_LIMIT;
    const uint64_t first = up(view->extensions_end > SECTOR ? view->extensions_end : SECTOR);
    uint64_t behind = up(view->name_offset + view->name_size);
    behind = behind > first ? behind : first;
    const uint64_t room_behind = limit > behind ? limit - behind : 0;
    const uint64_t before = view->has_name && view->name_offset < limit ? view->name_offset : limit;
    const uint64_t room_before = before > first ? before - first : 0;
    uint64_t rest = carried_bytes(view) + 8, in_sector = 112;
    if (in_sector + rest <= SECTOR &&
        (!view->has_name || view->name_offset >= in_sector + rest ||
         in_sector + rest + view->name_size <= SECTOR || view->name_size <= room_behind))
        return true;
    struct step step = {.at = view->header_length};
    do {
        if (in_sector + 8 <= SECTOR &&
            (rest <= room_before || (view->has_name && rest + view->name_size <= room_behind)))
            return true;
        if (!next_carried(view, &step))
            return false;
        in_sector += carried_size(&step);
        rest -= carried_size(&step);
    } while (true);
}
