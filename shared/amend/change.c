/* Pure, either side: stages changes of L2 entries of the untrusted image. */
#include "amend/change.h"

#include "qcow2/bytes.h"
#include "qcow2/overlap.h"
#include "qcow2/qcow2.h"

bool add_table_sector(struct walk *walk, const struct io_range *part, uint64_t at)
{
    uint64_t place = part->offset + at;
    return is_free_of_tables(walk->image, place, SECTOR_SIZE, AMEND_USE_L2_TABLE) &&
           add_write(&walk->image->file, &walk->changes, place, part->buffer + at,
                     SECTOR_SIZE);
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
