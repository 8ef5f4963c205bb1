/* Pure, either side: how often each cluster of an image is referred to, and what it is used for. */
#ifndef INSTAR_COUNTS_H
#define INSTAR_COUNTS_H

#include <stdbool.h>
#include <stdint.h>

#include "bits.h"
#include "instar_abi.h"

/* Counts of the clusters [first, first + size); a larger image is counted in one such window after
 * another. A count is 16 bits wide where the image's refcounts are no wider, else 32. */
struct counts {
    uint8_t *memory;
    uint8_t *uses; /* a byte for each cluster: what it was first counted as, and what flags say of it */
    uint64_t first;
    uint64_t size;
    bool wide;
};

/* AMEND_USE_* in a byte of `uses`, and whether entries of the active tables say that the cluster has
 * other users, or none (QCOW2_L2_COPIED). */
#define USE_MASK 0x3fu
#define SAID_SHARED 0x40u
#define SAID_ALONE 0x80u

/* Clusters that are compared at once. */
#define COUNTS_ROW 4u

_Static_assert(CHECK_COUNT_BYTES == sizeof(uint16_t) + 1 &&
                   CHECK_WIDE_COUNT_BYTES == sizeof(uint32_t) + 1,
               "a cluster has a count and a use");

/* How many clusters can be counted in `size` bytes: windows start at multiples of CHECK_COUNT_UNIT, so
 * that their refcounts, however wide, are whole sectors. */
static inline uint64_t room_for_counts(uint64_t size, bool wide)
{
    return size / (wide ? CHECK_WIDE_COUNT_BYTES : CHECK_COUNT_BYTES) / CHECK_COUNT_UNIT *
           CHECK_COUNT_UNIT;
}

/* Have the uses follow the counts; returns how many bytes both take. */
static inline uint64_t place_uses(struct counts *counts)
{
    uint64_t count = counts->wide ? sizeof(uint32_t) : sizeof(uint16_t);
    uint64_t before = round_up(counts->size, CHECK_COUNT_UNIT) * count;
    counts->uses = counts->memory + before;
    return before + counts->size;
}

static inline bool is_counted(const struct counts *counts, uint64_t cluster)
{
    return cluster >= counts->first && cluster - counts->first < counts->size;
}

static inline uint32_t get_count(const struct counts *counts, uint64_t cluster)
{
    uint64_t i = cluster - counts->first;
    return counts->wide ? ((const uint32_t *)(const void *)counts->memory)[i]
                        : ((const uint16_t *)(const void *)counts->memory)[i];
}

static inline void set_count(struct counts *counts, uint64_t cluster, uint32_t count)
{
    uint64_t i = cluster - counts->first;
    if (counts->wide)
        ((uint32_t *)(void *)counts->memory)[i] = count;
    else
        ((uint16_t *)(void *)counts->memory)[i] = (uint16_t)count;
}

static inline uint8_t *use_of(struct counts *counts, uint64_t cluster)
{
    return counts->uses + (cluster - counts->first);
}

#endif
