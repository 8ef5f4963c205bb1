/* Pure, either side: where refcount structures that are built anew have room beside the old ones. */
#ifndef INSTAR_PLACES_H
#define INSTAR_PLACES_H

#include <stdbool.h>
#include <stdint.h>

#include "qcow2/image.h"

#define PLACES_RUNS_MAX 4096u
/* A refcount table has no more entries. */
#define PLACES_BLOCKS_MAX 0x100000u

/* Clusters in a row. */
struct run {
    uint64_t first;
    uint64_t count;
};

/* Whether a cluster may be written before the switch; called for ascending clusters. False: refused. */
typedef bool tell_free(void *context, uint64_t cluster, bool *is_free);

struct places {
    struct qcow2_image *image;
    tell_free *tell_free;
    void *context;
    struct run *runs; /* room for PLACES_RUNS_MAX; that are free, ascending, apart */
    uint32_t run_count;
    uint64_t scanned;    /* clusters before this one have been looked at */
    uint64_t table;      /* cluster of the refcount table's start */
    uint64_t table_size; /* in clusters */
    uint64_t blocks;
};

/* A way through the places of the blocks, from the first one on. */
struct places_cursor {
    uint32_t run;
    uint64_t at; /* in the run */
};

/* Find places for the refcount table and for all blocks that are needed: those that are in `counted`, a bit
 * for each of PLACES_BLOCKS_MAX, and those that count the new structures, of 1 << block_bits clusters
 * each. Sets `needed` to all of them. The image grows, `end` being the first cluster after all that are in
 * use; on a block device free clusters are found with `tell_free`. False: refused. */
bool find_places(struct places *places, const uint64_t *counted, uint64_t *needed,
                 uint32_t block_bits, uint64_t end);
/* The cluster of the next block. False: none has been found yet. */
bool next_place(const struct places *places, struct places_cursor *cursor, uint64_t *place);

#endif
