/* Pure, either side: stages changes of L2 entries of the untrusted image. */
#include "amend/change.h"

#include "qcow2/bytes.h"
#include "qcow2/overlap.h"
#include "qcow2/qcow2.h"

#define GAP_MAX (3 * SECTOR_SIZE) /* to write as much again costs less than another range does */

/* Whether no more than half of what may be staged is staged, if all L2 tables are written whole. */
static bool may_fill_gaps(const struct qcow2_image *image)
{
    return image->l1_entries <= INSTAR_STAGED_MAX / 2 / image->header.cluster_size;
}

bool add_table_sector(struct walk *walk, const struct io_range *part, uint64_t at)
{
    const struct write_list *changes = &walk->changes;
    uint64_t start = at;
    if (changes->count && walk->fills_gaps && may_fill_gaps(walk->image)) {
        /* The part's own, or it lies elsewhere: what is between them stays as it is. */
        const struct io_range *last = &changes->ranges[changes->count - 1];
        uint64_t end = last->offset + last->length, next = part->offset + at;
        if (end >= part->offset && end < next && next - end <= GAP_MAX &&
            last->buffer + last->length == part->buffer + (end - part->offset))
            start = end - part->offset;
    }
    uint64_t place = part->offset + start, length = at + SECTOR_SIZE - start;
    return is_free_of_tables(walk->image, place, length, AMEND_USE_L2_TABLE) &&
           add_write(&walk->image->file, &walk->changes, place, part->buffer + start,
                     (uint32_t)length);
}

bool change_part(struct walk *walk, const struct io_range *part,
                 bool (*concerns)(const uint8_t *entry),
                 bool (*change)(struct walk *walk, uint64_t place, uint8_t *entry))
{
    for (uint64_t sector = 0; sector < part->length; sector += SECTOR_SIZE) {
        bool changed = false;
        for (uint64_t at = sector; at < sector + SECTOR_SIZE; at += QCOW2_TABLE_ENTRY_SIZE) {
            uint8_t *entry = part->buffer + at;
            if (!concerns(entry))
                continue;
            uint64_t before = load_be64(entry);
            if (!change(walk, part->offset + at, entry))
                return false;
            changed |= load_be64(entry) != before;
        }
        if (changed && !add_table_sector(walk, part, sector))
            return false;
    }
    return true;
}
