/* Pure, either side: fills unused clusters of the untrusted image; a sparse file stays sparse. */
#include "amend/fresh.h"

#include <string.h>

#include "bits.h"
#include "image/writes.h"

static bool is_inside(const struct image *image, uint64_t offset)
{
    return image->fixed_size || offset < round_up(image->io->size, SECTOR_SIZE);
}

bool write_fresh(struct image *image, uint64_t offset, uint8_t *data, uint32_t length, bool last)
{
    struct write_list list = {.phase = INSTAR_PHASE_PREPARE};
    bool inside = is_inside(image, offset);
    for (uint32_t at = 0; at < length; at += SECTOR_SIZE) {
        bool kept = inside || (last && at + SECTOR_SIZE == length) || !is_zero(data + at, SECTOR_SIZE);
        if (kept && !add_write(image, &list, offset + at, data + at, SECTOR_SIZE))
            return false;
    }
    return flush_writes(image, &list);
}

bool fill_fresh(struct image *image, uint64_t offset, uint64_t end, uint8_t *memory, uint32_t size)
{
    if (offset < end && !is_inside(image, offset))
        offset = end - SECTOR_SIZE;
    for (uint32_t length; offset < end; offset += length) {
        length = end - offset < size ? (uint32_t)(end - offset) : size;
        memset(memory, 0, length);
        if (!write_fresh(image, offset, memory, length, offset + length == end))
            return false;
    }
    return true;
}
