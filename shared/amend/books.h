/* Pure, either side: the image's refcounts, which an amend reads, raises and lowers. */
#ifndef INSTAR_BOOKS_H
#define INSTAR_BOOKS_H

#include <stdbool.h>
#include <stdint.h>

#include "qcow2/refcounts.h"

#define BLOCK_SLOTS 256u

/* Refcount blocks to append at a time, if there is use for them: each append costs a few requests. */
#define BLOCKS_AT_ONCE 16u

/* Memory for the books; need not be initialised. */
struct books_memory {
    uint64_t blocks[BLOCK_SLOTS]; /* offsets of the image's refcount blocks, a hash set */
    uint8_t prepared[WINDOW_SIZE];
    uint8_t released[WINDOW_SIZE];
};

struct books {
    struct qcow2_image *image;
    struct books_memory *memory;
    struct refcounts counts; /* as they are; the refcount table is as it will be */
    struct window prepared;  /* with the clusters that are newly taken */
    struct window released;  /* with those that are given up too */
    uint64_t next;           /* the first cluster that may be free */
    uint64_t total;          /* clusters that are taken at most, in all */
    uint64_t expected;       /* those of them that are still to come */
    bool table_moved;
    bool any_released;
    bool any_left_alone; /* a cluster was given up that has one user left */
};

void open_books(struct books *books, struct books_memory *memory, struct qcow2_image *image);

/* Of all these, false means refused. */

/* Get ready; at most `count` more clusters will be taken, besides those of the refcounts
 * themselves. */
bool expect_clusters(struct books *books, uint64_t count);
/* The refcount of any cluster at the end of the amend, as far as has been planned. */
bool get_final_refcount(struct books *books, uint64_t offset, uint64_t *refcount);
/* Take `references` of this use off the refcount of the cluster at `offset` in INSTAR_PHASE_RELEASE. */
bool release_cluster(struct books *books, uint64_t offset, uint64_t references, uint32_t use);
/* Give up the clusters of a table. */
bool release_clusters(struct books *books, uint64_t offset, uint64_t bytes, uint32_t use);
/* Stage all that is still in memory, and the refcount table's new place in the old header's first
 * sector, of which `sector` is to hold a copy. */
bool finish_books(struct books *books, uint8_t *sector);

/* For allocate.c. */

/* A refcount with the clusters that are taken already, if a block covers it. */
bool get_prepared_refcount(struct books *books, uint64_t offset, uint64_t *refcount, bool *covered);
bool take_cluster(struct books *books, uint64_t offset, uint64_t references);
/* Have a block in the refcount table. */
bool set_block(struct books *books, uint64_t index, uint64_t offset);
/* Stage what is in the windows, and forget it: *scratch is memory of WINDOW_SIZE until the next call. */
bool empty_windows(struct books *books, uint8_t **scratch);

#endif
