/* Pure, either side: refcounts written anew, in new clusters and perhaps of another width. */
#ifndef INSTAR_RECODE_H
#define INSTAR_RECODE_H

#include <stdbool.h>
#include <stdint.h>

#include "amend/places.h"
#include "qcow2/image.h"

/* Memory for the places; need not be initialised. */
struct recode_memory {
    struct run runs[PLACES_RUNS_MAX];
};

/* Refcounts of clusters in a row, as a block has them: a multiple of 8 bytes. */
struct stretch {
    uint64_t first; /* cluster */
    uint64_t count; /* of clusters; 0: there are no more stretches */
    uint32_t order;
    const uint8_t *refcounts; /* until the next call */
};

/* Where the refcounts come from. They do not count the old refcount structures, nor the new ones.
 * The context may not use memory->other_table, nor of memory->batch more than COUNT_SOURCE_SIZE bytes. */
#define COUNT_SOURCE_SIZE (BATCH_SIZE / 2)
struct count_source {
    void *context;
    /* Begin again with the first stretch. */
    void (*rewind)(void *context);
    /* The next stretch, ascending; of the clusters between two of them there are no users. */
    bool (*next)(void *context, struct stretch *stretch);
    tell_free *tell_free;
};

/* A refcount table, as the header names it. */
struct refcount_table {
    uint64_t offset;
    uint32_t clusters;
};

/* Whether refcounts of 1 << order bits hold those of the source. False: refused. */
bool fits_width(struct qcow2_image *image, const struct count_source *source, uint32_t order);

/* Stage refcount blocks of 1 << order bits, and their table, in INSTAR_PHASE_PREPARE; they count themselves
 * too. Nothing that the image refers to is written. False: refused. */
bool recode(struct qcow2_image *image, struct recode_memory *memory,
            const struct count_source *source, uint32_t order, struct refcount_table *table);

#endif
