/* Pure, either side: the entries of L2 tables, those that are not extended. */
#ifndef INSTAR_L2_H
#define INSTAR_L2_H

#include <stdbool.h>
#include <stdint.h>

#include "qcow2/bytes.h"
#include "qcow2/image.h"
#include "qcow2/qcow2.h"

/* The two flags lie in an entry's first and last byte. */
static inline bool is_compressed_cluster(const uint8_t *entry)
{
    return entry[0] & (QCOW2_L2_COMPRESSED >> 56);
}

static inline bool is_zero_cluster(const uint8_t *entry)
{
    return (entry[7] & QCOW2_L2_ZERO) && !is_compressed_cluster(entry);
}

/* Whether a sector of an L2 table has an entry that is_compressed_cluster() or is_zero_cluster(): to see
 * that of all at once takes a fraction of the time, and hardly a sector has one. No entry is swapped to
 * the machine's order, which takes most of the time that is left. */
static inline bool has_flagged(const uint8_t *sector)
{
    uint64_t all = 0, entry;
    for (uint32_t at = 0; at < SECTOR_SIZE; at += QCOW2_TABLE_ENTRY_SIZE) {
        __builtin_memcpy(&entry, sector + at, sizeof(entry)); /* no call of memory.c's */
        all |= entry;
    }
    const uint8_t *bytes = (const uint8_t *)&all;
    return (bytes[0] & (QCOW2_L2_COMPRESSED >> 56)) || (bytes[7] & QCOW2_L2_ZERO);
}

/* Refuse, as the L2 entry at this place of the image is not valid; returns false. */
bool refuse_entry(struct qcow2_image *image, uint64_t place, uint64_t entry);

#endif
