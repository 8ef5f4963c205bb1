/* Pure, either side: stages writes and zeros, and no more of them than the host keeps. */
#include "image/writes.h"

#include <string.h>

#define SHORT_RANGE 8u /* sectors, which are not worth a request of their own */

/* The host keeps all that is staged in memory until the end. */
static bool refuse_change(struct image *image)
{
    return refuse(image->verdict, REFUSAL_CHANGE_LIMIT, AMEND_ERROR_WORK_LIMIT, INSTAR_STAGED_MAX,
                  INSTAR_SEGMENTS_MAX, 0);
}

static bool refuse_write(struct image *image, uint64_t offset)
{
    return refuse(image->verdict, REFUSAL_WRITE_FAILED, AMEND_ERROR_WRITE_FAILED, offset, 0, 0);
}

/* What follows a refusal is void. */
static bool is_void(const struct image *image)
{
    return image->verdict->count && !image->read_only;
}

/* Take this many bytes, in this many requests, off what may be staged. */
static bool spend_on_writes(struct image *image, uint32_t requests, uint64_t bytes)
{
    if (bytes > INSTAR_STAGED_MAX - image->staged)
        return refuse_change(image);
    image->staged += bytes;
    return spend_on_requests(&image->budget, requests, bytes / SECTOR_SIZE * AMEND_SECTOR_WORK);
}

bool flush_few(struct image *image, struct write_list *list, bool later)
{
    uint32_t count = list->few_count;
    list->few_count = 0;
    if (is_void(image))
        return false;
    if (count == 0 && (later || !image->put_off))
        return true;
    image->put_off = later;
    return (count == 0 || spend_on_writes(image, 1, count * (uint64_t)SECTOR_SIZE)) &&
           (image->io->scatter(image->io->context, list->phase, list->few, count, later) ||
            refuse_write(image, list->few->numbers[0] * SECTOR_SIZE));
}

/* Have the ranges wait with the other few. */
static bool keep_few(struct image *image, struct write_list *list, uint32_t count, uint64_t sectors)
{
    if (list->few_count + sectors > IO_SECTORS_MAX && !flush_few(image, list, false))
        return false;
    for (uint32_t i = 0; i < count; i++) {
        const struct io_range *range = &list->ranges[i];
        memcpy(list->few->data + list->few_count * SECTOR_SIZE, range->buffer, range->length);
        for (uint64_t at = 0; at < range->length; at += SECTOR_SIZE)
            list->few->numbers[list->few_count++] = (range->offset + at) / SECTOR_SIZE;
    }
    return true;
}

bool flush_writes(struct image *image, struct write_list *list)
{
    uint32_t count = list->count;
    list->count = 0;
    if (is_void(image))
        return false;
    if (count == 0)
        return true;
    uint64_t bytes = sum_of_ranges(list->ranges, count), sectors = bytes / SECTOR_SIZE;
    if (list->few && sectors <= IO_SECTORS_MAX && sectors <= count * SHORT_RANGE)
        return keep_few(image, list, count, sectors);
    return spend_on_writes(image, count, bytes) &&
           (image->io->write(image->io->context, list->phase, list->ranges, count) ||
            refuse_write(image, list->ranges[0].offset));
}

bool add_write(struct image *image, struct write_list *list, uint64_t offset, uint8_t *data,
               uint32_t length)
{
    struct io_range *last = list->count ? &list->ranges[list->count - 1] : 0;
    /* A table may lie in a short last cluster, and what is written of it after the end. */
    if (!extend_to(image, offset + length))
        return false;
    if (last && last->offset + last->length == offset && last->buffer + last->length == data &&
        last->length + length <= INSTAR_BLOCK_REQUEST_MAX) {
        last->length += length;
        return true;
    }
    if (list->count == IO_RANGES_MAX && !flush_writes(image, list))
        return false;
    list->ranges[list->count++] = (struct io_range){offset, length, data};
    return true;
}

bool write_image(struct image *image, uint32_t phase, uint64_t offset, uint8_t *data,
                 uint32_t length)
{
    struct write_list list = {.phase = phase};
    return add_write(image, &list, offset, data, length) && flush_writes(image, &list);
}

bool flush_zeroes(struct image *image, struct zero_list *list)
{
    uint32_t count = list->count;
    list->count = 0;
    if (count == 0)
        return true;
    if (count > INSTAR_SEGMENTS_MAX - list->sent)
        return refuse_change(image);
    list->sent += count;
    if (!spend_on_requests(&image->budget, 1, count * sizeof(*list->segments)))
        return false;
    return image->io->zero(image->io->context, list->segments, count) ||
           refuse_write(image, list->segments[0].sector * SECTOR_SIZE);
}

bool add_zeroes(struct image *image, struct zero_list *list, uint64_t offset, uint32_t length)
{
    uint64_t sector = offset / SECTOR_SIZE, end = offset + length;
    /* A last cluster may be short, and reads as zeros after the end. */
    uint32_t sectors = (uint32_t)((end < image->end ? end : image->end) - offset) / SECTOR_SIZE;
    struct io_segment *last = list->count ? &list->segments[list->count - 1] : 0;
    if (last && last->sector + last->num_sectors == sector &&
        last->num_sectors <= INT32_MAX - sectors) {
        last->num_sectors += sectors;
        return true;
    }
    if (list->count == INSTAR_ZEROES_SEGMENTS_MAX && !flush_zeroes(image, list))
        return false;
    list->segments[list->count++] = (struct io_segment){sector, sectors, 0};
    return true;
}
