/* Pure, either side: reads, staged writes and windows on the untrusted image; bounds are kept here. */
#include <string.h>

#include "qcow2/bytes.h"
#include "amend/internal.h"

#define SECTOR QCOW2_SECTOR_SIZE

bool inside_image(const struct planner *planner, uint64_t offset, uint64_t length)
{
    uint64_t cluster_size = planner->header.cluster_size;
    uint64_t end = round_up(planner->io->size, cluster_size);
    return offset >= cluster_size && offset < end && length <= end - offset;
}

bool is_cluster(const struct planner *planner, uint64_t offset)
{
    return offset % planner->header.cluster_size == 0 &&
           inside_image(planner, offset, planner->header.cluster_size);
}

bool may_extend_to(const struct planner *planner, uint64_t end)
{
    uint64_t size = round_up(planner->io->size, SECTOR);
    return end <= size || end - size <= planner->config->max_growth;
}

bool extend_to(struct planner *planner, uint64_t end)
{
    const struct AmendConfig *c = planner->config;
    uint64_t needed = (planner->refcounts.total + 1) << planner->header.cluster_bits;
    if (may_extend_to(planner, end)) {
        planner->end = end > planner->end ? end : planner->end;
        return true;
    }
    if (c->flags & AMEND_FLAG_FIXED_SIZE)
        refuse(planner, REFUSAL_DEVICE_FULL, AMEND_ERROR_WRITE_FAILED, needed, planner->io->size, 0);
    else
        refuse(planner, REFUSAL_GROWTH, AMEND_ERROR_WRITE_FAILED, needed, c->max_growth, 0);
    return false;
}

bool spend(struct planner *planner, uint64_t bytes)
{
    if (bytes <= planner->work_left) {
        planner->work_left -= bytes;
        return true;
    }
    planner->work_left = 0;
    refuse(planner, REFUSAL_WORK_LIMIT, AMEND_ERROR_WORK_LIMIT, planner->config->work_max, 0, 0);
    return false;
}

/* The host keeps all that is staged in memory until the end. */
static bool refuse_change(struct planner *planner)
{
    refuse(planner, REFUSAL_CHANGE_LIMIT, AMEND_ERROR_WORK_LIMIT, INSTAR_STAGED_MAX,
           INSTAR_SEGMENTS_MAX, 0);
    return false;
}

static uint64_t sum_of(const struct io_range *ranges, uint32_t count)
{
    uint64_t bytes = 0;
    for (uint32_t i = 0; i < count; i++)
        bytes += ranges[i].length;
    return bytes;
}

static bool spend_on_requests(struct planner *planner, uint32_t count, uint64_t bytes)
{
    return spend(planner, AMEND_DOORBELL_WORK + count * (uint64_t)AMEND_REQUEST_WORK + bytes);
}

bool read_ranges(struct planner *planner, uint32_t phase, const struct io_range *ranges,
                 uint32_t count)
{
    if (count == 0)
        return true;
    uint64_t bytes = sum_of(ranges, count);
    if (!spend_on_requests(planner, count, bytes))
        return false;
    if (planner->io->read(planner->io->context, phase, ranges, count))
        return true;
    refuse(planner, REFUSAL_READ_FAILED, AMEND_ERROR_READ_FAILED, ranges[0].offset, bytes, 0);
    return false;
}

bool read_image(struct planner *planner, uint32_t phase, uint64_t offset, uint8_t *buffer,
                uint32_t length)
{
    uint64_t wanted = round_up(length, SECTOR);
    uint64_t present = offset >= planner->end ? 0 : planner->end - offset;
    struct io_range range = {offset, wanted < present ? wanted : present, buffer};
    if (range.length && !read_ranges(planner, phase, &range, 1))
        return false;
    memset(buffer + range.length, 0, wanted - range.length);
    return true;
}

bool flush_writes(struct planner *planner, struct write_list *list)
{
    uint32_t count = list->count;
    list->count = 0;
    if (planner->verdict->count)
        return false; /* what follows a refusal is void */
    if (count == 0)
        return true;
    uint64_t bytes = sum_of(list->ranges, count);
    if (bytes > INSTAR_STAGED_MAX - planner->staged)
        return refuse_change(planner);
    planner->staged += bytes;
    if (!spend_on_requests(planner, count, bytes / SECTOR * AMEND_SECTOR_WORK))
        return false;
    if (planner->io->write(planner->io->context, list->phase, list->ranges, count))
        return true;
    refuse(planner, REFUSAL_WRITE_FAILED, AMEND_ERROR_WRITE_FAILED, list->ranges[0].offset, 0, 0);
    return false;
}

bool add_write(struct planner *planner, struct write_list *list, uint64_t offset, uint8_t *data,
               uint32_t length)
{
    struct io_range *last = list->count ? &list->ranges[list->count - 1] : 0;
    /* A table may lie in a short last cluster, and what is written of it behind the end. */
    if (!extend_to(planner, offset + length))
        return false;
    if (last && last->offset + last->length == offset && last->buffer + last->length == data &&
        last->length + length <= INSTAR_BLOCK_REQUEST_MAX) {
        last->length += length;
        return true;
    }
    if (list->count == PLANNER_RANGES_MAX && !flush_writes(planner, list))
        return false;
    list->ranges[list->count++] = (struct io_range){offset, length, data};
    return true;
}

bool write_image(struct planner *planner, uint32_t phase, uint64_t offset, uint8_t *data,
                 uint32_t length)
{
    struct write_list list = {.phase = phase};
    return add_write(planner, &list, offset, data, length) && flush_writes(planner, &list);
}

void mark_changed(struct window *window, uint64_t offset)
{
    set_bit(window->changed, (offset - window->offset) / SECTOR);
}

bool flush_window(struct planner *planner, struct window *window)
{
    struct write_list list = {.phase = window->write_phase};
    for (uint32_t at = 0; at < window->size; at += SECTOR)
        if (take_bit(window->changed, at / SECTOR) &&
            !add_write(planner, &list, window->offset + at, window->data + at, SECTOR))
            return false;
    return flush_writes(planner, &list);
}

bool is_in_window(const struct window *window, uint64_t offset, uint32_t length)
{
    return window->loaded && offset >= window->offset &&
           offset + length <= window->offset + window->size;
}

uint8_t *look(struct planner *planner, struct window *window, uint64_t offset, uint32_t length)
{
    if (!is_in_window(window, offset, length)) {
        if (window->loaded && !flush_window(planner, window))
            return 0;
        window->loaded = false;
        window->offset = offset - offset % (window->any_order ? window->size : SECTOR);
        if (!read_image(planner, window->phase, window->offset, window->data, window->size))
            return 0;
        window->loaded = true;
    }
    return window->data + (offset - window->offset);
}

bool flush_zeroes(struct planner *planner)
{
    struct io_segment *segments = planner->workspace->scratch.segments;
    uint32_t count = planner->segment_count;
    planner->segment_count = 0;
    if (count == 0)
        return true;
    if (count > INSTAR_SEGMENTS_MAX - planner->segments_sent)
        return refuse_change(planner);
    planner->segments_sent += count;
    if (!spend_on_requests(planner, 1, count * sizeof(*segments)))
        return false;
    if (planner->io->zero(planner->io->context, segments, count))
        return true;
    refuse(planner, REFUSAL_WRITE_FAILED, AMEND_ERROR_WRITE_FAILED, segments[0].sector * SECTOR, 0,
           0);
    return false;
}

bool zero_cluster(struct planner *planner, uint64_t offset)
{
    struct io_segment *segments = planner->workspace->scratch.segments;
    uint64_t end = offset + planner->header.cluster_size;
    /* A last cluster may be short, and reads as zeros behind the end. */
    uint32_t sectors = (uint32_t)((end < planner->end ? end : planner->end) - offset) / SECTOR;
    struct io_segment *last = planner->segment_count ? &segments[planner->segment_count - 1] : 0;
    if (last && last->sector + last->num_sectors == offset / SECTOR &&
        last->num_sectors <= INT32_MAX - sectors) {
        last->num_sectors += sectors;
        return true;
    }
    if (planner->segment_count == INSTAR_ZEROES_SEGMENTS_MAX && !flush_zeroes(planner))
        return false;
    segments[planner->segment_count++] = (struct io_segment){offset / SECTOR, sectors, 0};
    return true;
}
