/* Pure, either side: how often each cluster of an image is referred to, and what it is used for. */
#ifndef INSTAR_COUNTS_H
#define INSTAR_COUNTS_H

#include <stdbool.h>
#include <stdint.h>

/* Counts of the clusters [first, first + size); of a larger image there is one such window after the
 * other. A count is 16 bits wide where the image's refcounts are no wider, else 32. */
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

/* Windows start at multiples of it, so that their refcounts, however wide, are whole sectors. */
#define COUNTS_UNIT UINT64_C(4096)
/* Clusters that are compared at once. */
#define COUNTS_ROW 4u

static inline uint64_t bytes_of_count(bool wide)
{
    return wide ? 4 : 2;
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
