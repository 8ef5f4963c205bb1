/* Test side: see memory_image.h. */
#include "host/memory_image.h"

#include <stdlib.h>
#include <string.h>

#include "bits.h"

static _Thread_local struct host_write *writes;
static _Thread_local uint32_t write_count, write_room;

static void forget_writes(void)
{
    for (uint32_t i = 0; i < write_count; i++)
        free(writes[i].data);
    write_count = 0;
}

static bool note_write(const struct host_write *write)
{
    if (write_count == write_room) {
        uint32_t room = write_room ? 2 * write_room : 64;
        struct host_write *grown = realloc(writes, room * sizeof(*writes));
        if (!grown)
            return false;
        writes = grown;
        write_room = room;
    }
    writes[write_count++] = *write;
    return true;
}

/* Whether this call may go on; `good` is whether the planner kept the rules. */
static bool begin(struct memory_image *image, bool good)
{
    if (!good)
        image->outcome->misuse = true;
    return ++image->calls != image->fail_call && good;
}

static bool is_inside(const struct memory_image *image, uint64_t offset, uint64_t length)
{
    return offset % SECTOR_SIZE == 0 && length % SECTOR_SIZE == 0 && length &&
           offset <= image->limit && length <= image->limit - offset;
}

/* What is staged for phases below `phase` covers what the image has, the highest phase on top. */
static void overlay(const struct io_range *range, uint32_t phase)
{
    for (uint32_t p = 0; p < phase; p++)
        for (uint32_t i = 0; i < write_count; i++) {
            const struct host_write *w = &writes[i];
            uint64_t start = w->offset > range->offset ? w->offset : range->offset;
            uint64_t end = smaller(w->offset + w->length, range->offset + range->length);
            if (w->phase == p && !w->zeroes && start < end)
                memcpy(range->buffer + (start - range->offset), w->data + (start - w->offset),
                       end - start);
        }
}

/* What a request that fails leaves in its buffers is anything. */
static void spoil(const struct io_range *ranges, uint32_t count)
{
    for (uint32_t i = 0; i < count && i < IO_RANGES_MAX; i++)
        memset(ranges[i].buffer, 0xa5, ranges[i].length);
}

static bool stage_late(struct memory_image *image);

static bool read_memory(void *context, uint32_t phase, const struct io_range *ranges,
                        uint32_t count)
{
    struct memory_image *image = context;
    image->outcome->read_calls++;
    if (!stage_late(image) ||
        !begin(image, count && count <= IO_RANGES_MAX && phase <= INSTAR_PHASE_COUNT)) {
        spoil(ranges, count);
        return false;
    }
    for (uint32_t i = 0; i < count; i++) {
        const struct io_range *range = &ranges[i];
        if (!is_inside(image, range->offset, range->length)) {
            image->outcome->misuse = true;
            return false;
        }
        uint64_t present = range->offset < image->size ? image->size - range->offset : 0;
        present = smaller(present, range->length);
        memcpy(range->buffer, image->bytes + range->offset, present);
        memset(range->buffer + present, 0, range->length - present);
        overlay(range, phase);
        image->outcome->bytes_read += range->length;
    }
    return true;
}

static bool write_memory(void *context, uint32_t phase, const struct io_range *ranges,
                         uint32_t count)
{
    struct memory_image *image = context;
    if (!begin(image, count && count <= IO_RANGES_MAX && phase < INSTAR_PHASE_COUNT))
        return false;
    for (uint32_t i = 0; i < count; i++) {
        const struct io_range *range = &ranges[i];
        uint8_t *copy = malloc(range->length);
        struct host_write write = {phase, false, range->offset, range->length, copy};
        if (!copy || !is_inside(image, range->offset, range->length) || !note_write(&write)) {
            image->outcome->misuse = true;
            free(copy);
            return false;
        }
        memcpy(copy, range->buffer, range->length);
    }
    return true;
}

static bool stage_late(struct memory_image *image)
{
    struct io_range range = {.length = SECTOR_SIZE};
    uint32_t count = image->late_count;
    image->late_count = 0;
    for (uint32_t i = 0; i < count; i++) {
        range.offset = image->late->numbers[i] * SECTOR_SIZE;
        range.buffer = (uint8_t *)image->late->data + i * SECTOR_SIZE;
        image->calls -= i > 0; /* one call in all */
        if (!write_memory(image, image->late_phase, &range, 1))
            return false;
    }
    return true;
}

static bool scatter_memory(void *context, uint32_t phase, const struct io_sectors *sectors,
                           uint32_t count, bool later)
{
    struct memory_image *image = context;
    /* Without a sector it carries out what was put off, which there must be. */
    if (count > IO_SECTORS_MAX || (count == 0 && (later || !image->late_count)))
        return write_memory(context, phase, 0, 0);
    if (!stage_late(image))
        return false;
    image->late = sectors;
    image->late_phase = phase;
    image->late_count = count;
    return later || stage_late(image);
}

static bool zero_memory(void *context, const struct io_segment *segments, uint32_t count)
{
    struct memory_image *image = context;
    if (!begin(image, count && count <= INSTAR_ZEROES_SEGMENTS_MAX))
        return false;
    for (uint32_t i = 0; i < count; i++) {
        struct host_write write = {INSTAR_PHASE_PREPARE, true, segments[i].sector * SECTOR_SIZE,
                                   (uint64_t)segments[i].num_sectors * SECTOR_SIZE, 0};
        if (segments[i].flags || !is_inside(image, write.offset, write.length) ||
            !note_write(&write)) {
            image->outcome->misuse = true;
            return false;
        }
    }
    return true;
}

static void count_progress(void *context, uint64_t done, uint64_t total)
{
    struct memory_image *image = context;
    image->outcome->progress_calls++;
    if (done > total)
        image->outcome->misuse = true;
}

void open_memory(struct memory_image *memory, const uint8_t *image, uint64_t size,
                 uint64_t max_growth, struct host_outcome *outcome)
{
    memset(outcome, 0, sizeof(*outcome));
    forget_writes();
    *memory = (struct memory_image){
        .bytes = image,
        .size = size,
        .limit = (size + max_growth + SECTOR_SIZE - 1) / SECTOR_SIZE * SECTOR_SIZE,
        .outcome = outcome,
    };
}

struct image_io memory_io(struct memory_image *memory, bool progress)
{
    return (struct image_io){
        .context = memory,
        .size = memory->size,
        .read = read_memory,
        .write = write_memory,
        .scatter = scatter_memory,
        .zero = zero_memory,
        .progress = progress ? count_progress : 0,
    };
}

void tell_outcome(struct host_outcome *outcome, const struct verdict *verdict)
{
    memcpy(outcome->refusals, verdict->refusals, verdict->count * sizeof(verdict->refusals[0]));
    outcome->refusal_count = verdict->count;
    outcome->names_size = verdict->names_size;
    memcpy(outcome->names, verdict->names, verdict->names_size);
    outcome->snapshots_size = verdict->snapshots_size;
    memcpy(outcome->snapshots, verdict->snapshots, verdict->snapshots_size);
    if (!outcome->planned)
        return;
    outcome->write_count = write_count;
    outcome->writes = writes;
}
