/* Test side: see sparse.h. */
#include "sparse.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "qcow2/bytes.h"
#include "qcow2/qcow2.h"

#define SECTOR 512u

_Noreturn void broken(const char *promise, unsigned line)
{
    fprintf(stderr, "broken promise, line %u: %s\n", line, promise);
    abort();
}

bool sparse_parse(const uint8_t *data, size_t size, struct input_head *head, struct sparse *image)
{
    struct chunk_head chunk;
    if (size < sizeof(*head))
        return false;
    memcpy(head, data, sizeof(*head));
    image->size = load_le(head->size, 8) & INT64_MAX;
    image->count = image->request_size = 0;
    image->request = 0;
    for (size_t at = sizeof(*head); size - at >= sizeof(chunk) && image->count < CHUNKS_MAX;) {
        memcpy(&chunk, data + at, sizeof(chunk));
        at += sizeof(chunk);
        uint64_t length = load_le(chunk.length, 2);
        if (length > size - at)
            length = size - at;
        uint64_t offset = load_le(chunk.offset, 8);
        if (offset == REQUEST_OFFSET && length >= sizeof(struct request_head)) {
            image->request = data + at;
            image->request_size = (uint32_t)length;
        }
        uint64_t there = offset < image->size ? image->size - offset : 0;
        if (there) /* what lies behind the end must not show when the image grows */
            image->chunks[image->count++] =
                (struct chunk){offset, length < there ? length : there, data + at};
        at += length;
    }
    return true;
}

void sparse_read(const struct sparse *image, uint64_t offset, uint8_t *to, uint64_t length)
{
    memset(to, 0, length);
    uint64_t end = offset + length;
    if (end > image->size)
        end = image->size;
    for (uint32_t i = 0; i < image->count; i++) {
        const struct chunk *c = &image->chunks[i];
        uint64_t first = c->offset > offset ? c->offset : offset;
        uint64_t last = c->offset + c->length < end ? c->offset + c->length : end;
        if (first < last && c->bytes)
            memcpy(to + (first - offset), c->bytes + (first - c->offset), last - first);
        else if (first < last)
            memset(to + (first - offset), 0, last - first);
    }
}

void sparse_apply(struct sparse *image, const struct staged *staged, uint32_t phase)
{
    for (uint32_t i = 0; i < staged->count; i++) {
        const struct chunk *w = &staged->writes[i];
        if (staged->phases[i] != phase)
            continue;
        image->chunks[image->count++] = *w;
        if (image->size < w->offset + w->length)
            image->size = w->offset + w->length;
    }
}

/* Sectors that are read with the header, wherever they are: the host's are inside the image. */
static void read_along(const struct sparse *image, uint8_t flags, const uint8_t *raw,
                       struct AmendConfig *config)
{
    struct asked_options asked = sparse_options(image, flags);
    const struct option_value *size = &asked.values[OPTION_SIZE];
    bool names = asked.values[OPTION_BACKING_FILE].given || asked.values[OPTION_BACKING_FMT].given ||
                 asked.values[OPTION_DATA_FILE].given;
    uint64_t span = (uint64_t)config->cluster_size * config->cluster_size / 8;
    if (size->given && span) {
        uint64_t both = config->virtual_size < size->number ? config->virtual_size : size->number;
        uint64_t place = load_be64(raw + 40) + (both ? both - 1 : 0) / span * 8;
        config->read_along[0] = place - place % SECTOR;
    } else if (names || (config->current_version == 2 && flags & ASK_COMPAT_V3)) {
        uint64_t table = (uint64_t)load_be32(raw + 56) * config->cluster_size;
        config->read_along[0] = load_be64(raw + 48);
        config->read_along[1] = config->read_along[0] + table;
    }
}

void sparse_config(const struct sparse *image, uint8_t flags, struct AmendConfig *config)
{
    uint8_t raw[SECTOR];
    sparse_read(image, 0, raw, sizeof(raw));
    uint32_t version = load_be32(raw + 4), bits = load_be32(raw + 20);
    uint32_t order = version == 2 ? 4 : load_be32(raw + 96);
    *config = (struct AmendConfig){
        .magic = AMEND_CONFIG_MAGIC,
        .target_format = AMEND_FORMAT_QCOW2,
        .flags = flags & ~ASKED,
        .sector_size = SECTOR,
        .cluster_size = bits >= 9 && bits <= 21 ? UINT32_C(1) << bits : 0,
        .current_version = version,
        .current_refcount_bits = order <= 6 ? UINT32_C(1) << order : 0,
        .current_incompatible_features = version == 2 ? 0 : load_be64(raw + 72),
        .current_compatible_features = version == 2 ? 0 : load_be64(raw + 80),
        .virtual_size = load_be64(raw + 24),
        .image_size = image->size,
        .work_max = UINT64_MAX,
        .max_growth = flags & AMEND_FLAG_FIXED_SIZE ? 0 : GROWTH,
        .current_autoclear_features = version == 2 ? 0 : load_be64(raw + 88),
    };
    if (image->request) {
        config->flags |= (uint32_t)load_le(image->request, 4) & ALLOWED;
        config->backing_size = load_le(image->request + 4, 8);
    }
    read_along(image, flags, raw, config);
}

struct asked_options sparse_options(const struct sparse *image, uint8_t flags)
{
    const uint32_t head = sizeof(struct request_head);
    struct asked_options asked = {0};
    if (image->request &&
        !read_options(image->request + head, image->request_size - head, &asked))
        memset(&asked, 0, sizeof(asked));
    if (flags & ASK_COMPAT)
        asked.values[OPTION_COMPAT] = (struct option_value){
            .given = true,
            .number = flags & ASK_COMPAT_V3 ? 3 : 2,
        };
    if (flags & ASK_LAZY)
        asked.values[OPTION_LAZY_REFCOUNTS] = (struct option_value){
            .given = true,
            .number = flags & ASK_LAZY_ON ? 1 : 0,
        };
    uint64_t bits = asked.values[OPTION_REFCOUNT_BITS].number;
    if (bits == 0 || bits > 64 || bits & (bits - 1))
        asked.values[OPTION_REFCOUNT_BITS].given = false; /* the host asks for no such width */
    if (!is_one_step(&asked))
        asked.values[OPTION_SIZE].given = false; /* its step is another one */
    return asked;
}

/* Whole sectors, no further than the image may reach. */
static void check_place(const struct reading *reading, uint64_t offset, uint64_t length)
{
    uint64_t end = (reading->image->size + reading->max_growth + SECTOR - 1) / SECTOR * SECTOR;
    PROMISE(offset % SECTOR == 0 && length % SECTOR == 0 && length > 0);
    PROMISE(offset < end && length <= end - offset);
}

static void check_ranges(const struct reading *reading, const struct io_range *ranges,
                         uint32_t count)
{
    const uint8_t *start = (const uint8_t *)reading->workspace;
    PROMISE(count > 0 && count <= IO_RANGES_MAX);
    for (uint32_t i = 0; i < count; i++) {
        const struct io_range *r = &ranges[i];
        check_place(reading, r->offset, r->length);
        PROMISE(r->length <= INSTAR_BLOCK_REQUEST_MAX);
        PROMISE(r->buffer >= start && r->buffer + r->length <= start + sizeof(*reading->workspace));
    }
}

/* What is staged for phases below `phase` covers what the image has, the highest on top. */
static void overlay(const struct staged *staged, uint32_t phase, const struct io_range *range)
{
    for (uint32_t p = 0; p < phase; p++)
        for (uint32_t i = 0; i < staged->count; i++) {
            const struct chunk *w = &staged->writes[i];
            uint64_t first = w->offset > range->offset ? w->offset : range->offset;
            uint64_t end = range->offset + range->length, last = w->offset + w->length;
            last = last < end ? last : end;
            if (staged->phases[i] == p && w->bytes && first < last)
                memcpy(range->buffer + (first - range->offset), w->bytes + (first - w->offset),
                       last - first);
        }
}

static struct io_sectors late; /* what has been put off, as it was then */

/* See that what has been put off is as it was: it is read no sooner than this. */
static void carry_out_late(struct reading *reading)
{
    const struct io_sectors *sectors = reading->late;
    PROMISE(!sectors ||
            (!memcmp(late.numbers, sectors->numbers, reading->late_count * sizeof(late.numbers[0])) &&
             !memcmp(late.data, sectors->data, reading->late_count * SECTOR)));
    reading->late = 0;
}

bool reading_read(void *context, uint32_t phase, const struct io_range *ranges, uint32_t count)
{
    struct reading *reading = context;
    PROMISE(phase <= INSTAR_PHASE_COUNT);
    carry_out_late(reading);
    check_ranges(reading, ranges, count);
    for (uint32_t i = 0; i < count; i++) {
        const struct io_range *r = &ranges[i];
        reading->bytes += r->length;
        const struct qcow2_memory *memory = &reading->workspace->image;
        bool table = r->buffer >= memory->table && r->buffer < memory->batch;
        reading->cost += r->length * (table ? 8 : 1);
    }
    if (reading->failed)
        PROMISE(++reading->late_calls <= LATE_CALLS_MAX);
    if (++reading->calls == reading->fail_read || reading->cost > reading->budget) {
        reading->failed = true;
        return false;
    }
    for (uint32_t i = 0; i < count; i++) {
        sparse_read(reading->image, ranges[i].offset, ranges[i].buffer, ranges[i].length);
        overlay(reading->staged, phase, &ranges[i]);
    }
    return true;
}

/* Keep a write, or zeros where there are no bytes. False: there is no room. */
static bool stage(struct reading *reading, uint32_t phase, uint64_t offset, uint64_t length,
                  const uint8_t *bytes)
{
    struct staged *s = reading->staged;
    bool fits = s->count < STAGED_MAX && (!bytes || length <= STAGED_BYTES - s->bytes);
    PROMISE(!reading->write_failed && reading->verdict->count == 0);
    if (!fits) {
        reading->write_failed = true;
        return false;
    }
    if (bytes)
        memcpy(s->data + s->bytes, bytes, length);
    s->phases[s->count] = phase;
    s->writes[s->count++] = (struct chunk){offset, length, bytes ? s->data + s->bytes : 0};
    s->bytes += bytes ? (uint32_t)length : 0;
    return true;
}

bool reading_write(void *context, uint32_t phase, const struct io_range *ranges, uint32_t count)
{
    struct reading *reading = context;
    PROMISE(phase < INSTAR_PHASE_COUNT && !reading->failed);
    check_ranges(reading, ranges, count);
    for (uint32_t i = 0; i < count; i++)
        if (!stage(reading, phase, ranges[i].offset, ranges[i].length, ranges[i].buffer))
            return false;
    return true;
}

bool reading_scatter(void *context, uint32_t phase, const struct io_sectors *sectors, uint32_t count,
                     bool later)
{
    struct reading *reading = context;
    PROMISE(phase < INSTAR_PHASE_COUNT && !reading->failed && count <= IO_SECTORS_MAX);
    PROMISE(count > 0 || (!later && reading->late));
    carry_out_late(reading);
    if (later) {
        reading->late = sectors;
        reading->late_count = count;
        memcpy(late.numbers, sectors->numbers, count * sizeof(late.numbers[0]));
        memcpy(late.data, sectors->data, count * SECTOR);
    }
    for (uint32_t i = 0; i < count; i++) {
        PROMISE(sectors->numbers[i] <= INT64_MAX / SECTOR);
        check_place(reading, sectors->numbers[i] * SECTOR, SECTOR);
        if (!stage(reading, phase, sectors->numbers[i] * SECTOR, SECTOR,
                   sectors->data + i * SECTOR))
            return false;
    }
    return true;
}

bool reading_zero(void *context, const struct io_segment *segments, uint32_t count)
{
    struct reading *reading = context;
    PROMISE(count > 0 && count <= INSTAR_ZEROES_SEGMENTS_MAX && !reading->failed);
    for (uint32_t i = 0; i < count; i++) {
        uint64_t offset = segments[i].sector * SECTOR;
        uint64_t length = (uint64_t)segments[i].num_sectors * SECTOR;
        PROMISE(segments[i].flags == 0 && segments[i].sector <= INT64_MAX / SECTOR);
        check_place(reading, offset, length);
        if (!stage(reading, INSTAR_PHASE_PREPARE, offset, length, 0))
            return false;
    }
    return true;
}

void reading_progress(void *context, uint64_t done, uint64_t total)
{
    struct reading *reading = context;
    PROMISE(reading->may_progress);
    PROMISE(done <= total && done >= reading->progress);
    reading->progress = done;
}
