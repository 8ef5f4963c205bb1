/* Pure, either side: reads of the untrusted image; bounds and budget are kept here. */
#include "image/io.h"

#include <string.h>

#include "bits.h"

struct image open_image(const struct image_io *io, struct verdict *verdict, uint64_t work_max)
{
    return (struct image){
        .io = io,
        .verdict = verdict,
        .budget = {verdict, work_max, work_max},
        .end = round_up(io->size, SECTOR_SIZE),
    };
}

bool may_extend_to(const struct image *image, uint64_t end)
{
    uint64_t size = round_up(image->io->size, SECTOR_SIZE);
    return end <= size || end - size <= image->max_growth;
}

bool extend_to(struct image *image, uint64_t end)
{
    if (!may_extend_to(image, end))
        return refuse(image->verdict, image->fixed_size ? REFUSAL_DEVICE_FULL : REFUSAL_GROWTH,
                      AMEND_ERROR_WRITE_FAILED, image->growth_needed,
                      image->fixed_size ? image->io->size : image->max_growth, 0);
    image->end = end > image->end ? end : image->end;
    return true;
}

uint64_t sum_of_ranges(const struct io_range *ranges, uint32_t count)
{
    uint64_t bytes = 0;
    for (uint32_t i = 0; i < count; i++)
        bytes += ranges[i].length;
    return bytes;
}

bool read_ranges(struct image *image, uint32_t phase, const struct io_range *ranges, uint32_t count)
{
    if (count == 0)
        return true;
    uint64_t bytes = sum_of_ranges(ranges, count);
    if (!spend_on_requests(&image->budget, count, bytes))
        return false;
    image->put_off = false;
    return image->io->read(image->io->context, phase, ranges, count) ||
           refuse(image->verdict, REFUSAL_READ_FAILED, AMEND_ERROR_READ_FAILED, ranges[0].offset,
                  bytes, 0);
}

bool read_image(struct image *image, uint32_t phase, uint64_t offset, uint8_t *buffer,
                uint32_t length)
{
    uint64_t wanted = round_up(length, SECTOR_SIZE);
    uint64_t present = offset >= image->end ? 0 : image->end - offset;
    struct io_range range = {offset, wanted < present ? wanted : present, buffer};
    if (range.length && !read_ranges(image, phase, &range, 1))
        return false;
    memset(buffer + range.length, 0, wanted - range.length);
    return true;
}

void report_progress(const struct image *image, uint64_t done, uint64_t total)
{
    if (image->io->progress)
        image->io->progress(image->io->context, done, total);
}
