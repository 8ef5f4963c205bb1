/* Pure, either side: how often each cluster of an image is referred to, and what it is used for. */
#ifndef INSTAR_COUNTS_H
#define INSTAR_COUNTS_H

#include <stdbool.h>
#include <stdint.h>

/* Counts of the clusters [first, first + size); of a larger image there is one such window after the
 * other. A count is 16 bits wide where the image's refcounts are no wider, else 32. */
struct counts {
    uint8_t *memory;
    uint64_t first;
    uint64_t size;
    bool wide;
};

/* Bytes that a cluster takes: its count, and its use. */
static inline uint64_t bytes_of_count(bool wide)
{
    return wide ? 5 : 3;
}

static inline bool is_counted(const struct counts *counts, uint64_t cluster)
{
    return cluster - counts->first < counts->size;
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

/* What the cluster was first counted as: AMEND_USE_*. */
static inline uint8_t *use_of(struct counts *counts, uint64_t cluster)
{
    return counts->memory + counts->size * (counts->wide ? 4 : 2) + (cluster - counts->first);
}

#endif
