/* Pure, either side: how tables divide the disk of an image ("Cluster mapping", "Extended L2 Entries"). */
#ifndef INSTAR_GEOMETRY_H
#define INSTAR_GEOMETRY_H

#include <stdbool.h>
#include <stdint.h>

#include "bits.h"
#include "qcow2/image.h"
#include "qcow2/qcow2.h"

#define SUBCLUSTERS 32u /* in a cluster of an image with extended L2 entries */

static inline bool has_extended_l2(const struct qcow2_header *h)
{
    return h->incompatible_features & QCOW2_INCOMPATIBLE_EXTENDED_L2;
}

/* Bytes of an entry of an L2 table. */
static inline uint32_t l2_entry_size(const struct qcow2_header *h)
{
    return has_extended_l2(h) ? 2 * QCOW2_TABLE_ENTRY_SIZE : QCOW2_TABLE_ENTRY_SIZE;
}

static inline uint64_t l2_entries(const struct qcow2_header *h)
{
    return h->cluster_size / l2_entry_size(h);
}

/* Bytes of the disk that an L2 table maps. */
static inline uint64_t l2_span(const struct qcow2_header *h)
{
    return l2_entries(h) << h->cluster_bits;
}

/* The bytes of the disk: a size that is none of whole sectors is rounded down, as qemu does it. */
static inline uint64_t disk_size(const struct qcow2_header *h)
{
    return h->size / SECTOR_SIZE * SECTOR_SIZE;
}

/* How many entries of an L1 table map a disk of this size, which is at most INT64_MAX. */
static inline uint64_t l1_entries_for(const struct qcow2_header *h, uint64_t size)
{
    return round_up(size, l2_span(h)) / l2_span(h);
}

#endif
