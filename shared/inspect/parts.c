/* Pure, either side: reads many parts of the untrusted image at once, and has each looked at, in order. */
#include "inspect/parts.h"

#include <string.h>

/* Read all parts; those that follow each other in the image do so in memory, and are one read. */
static bool read_parts(struct parts *parts)
{
    struct image *image = &parts->image->file;
    struct io_range reads[IO_RANGES_MAX];
    uint32_t count = 0;
    for (uint32_t i = 0; i < parts->count; i++) {
        const struct io_range *part = &parts->ranges[i];
        uint64_t there = part->offset < image->end ? image->end - part->offset : 0;
        there = there < part->length ? there : part->length;
        memset(part->buffer + there, 0, part->length - there);
        struct io_range *last = count ? &reads[count - 1] : 0;
        if (last && last->offset + last->length == part->offset &&
            last->buffer + last->length == part->buffer)
            last->length += there;
        else if (there)
            reads[count++] = (struct io_range){part->offset, there, part->buffer};
    }
    return read_ranges(image, INSTAR_PHASE_PREPARE, reads, count);
}

bool flush_parts(struct parts *parts)
{
    uint32_t count = parts->count;
    if (!read_parts(parts))
        return false;
    parts->count = 0;
    parts->bytes = 0;
    for (uint32_t i = 0; i < count; i++)
        if (!parts->visit(parts->context, parts->ranges[i].buffer,
                          (uint32_t)parts->ranges[i].length, parts->tags[i]))
            return false;
    return true;
}

bool add_part(struct parts *parts, uint64_t offset, uint32_t size, uint64_t tag)
{
    if ((parts->count == IO_RANGES_MAX || parts->bytes + size > BATCH_SIZE) && !flush_parts(parts))
        return false;
    parts->tags[parts->count] = tag;
    parts->ranges[parts->count++] =
        (struct io_range){offset, size, parts->image->memory->batch + parts->bytes};
    parts->bytes += size;
    return true;
}
