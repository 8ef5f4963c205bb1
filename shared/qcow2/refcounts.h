/* Pure, either side: the refcounts of an image, which are 1 to 64 bits wide. */
#ifndef INSTAR_REFCOUNTS_H
#define INSTAR_REFCOUNTS_H

#include <stdbool.h>
#include <stdint.h>

#include "qcow2/image.h"

/* Entry `index` of a block of refcounts, which are 1 << order bits wide ("Refcount block"). */
uint64_t load_refcount(const uint8_t *block, uint64_t index, uint32_t order);
void store_refcount(uint8_t *block, uint64_t index, uint32_t order, uint64_t refcount);
/* The largest one of that width. */
uint64_t largest_refcount(uint32_t order);
uint64_t entries_per_block(const struct qcow2_image *image);

struct refcounts {
    struct qcow2_image *image;
    struct window table; /* the refcount table */
    struct window disk;  /* refcounts as they are */
    uint64_t table_offset;
    uint64_t table_entries; /* 0: not started */
    uint64_t disk_blocks;   /* the image's entries reach to here: no block is named after them */
    uint64_t blocks;        /* the same with blocks that are appended */
    uint64_t last_table;    /* the L2 table whose refcount was looked up last; 0: none */
    uint64_t last_table_users;
};

/* Where a refcount is. */
struct refcount_place {
    uint64_t at;    /* in the image, of its first byte */
    uint8_t *bytes; /* in a window */
    uint64_t index; /* as in load_refcount, from there */
};

/* Of all these, false means refused. */

/* Get ready; the refcount table is the one before `table_phase`. */
bool start_refcounts(struct refcounts *refcounts, struct qcow2_image *image, uint32_t table_phase);
/* The refcount of the cluster at `offset` as it is on the disk. */
bool get_refcount(struct refcounts *refcounts, uint64_t offset, uint64_t *refcount);
/* Whether that takes no read now. */
bool has_refcount(const struct refcounts *refcounts, uint64_t offset);
/* The refcount of an L2 table, of which many entries in a row ask. */
bool get_table_refcount(struct refcounts *refcounts, uint64_t offset, uint64_t *refcount);
/* Refuse, as a cluster has a refcount that cannot be, and needs another one; returns false. */
bool refuse_refcount(struct qcow2_image *image, uint64_t offset, uint64_t found, uint64_t needed);

/* An entry of the refcount table, 0 or a cluster of the image. */
bool get_block(struct refcounts *refcounts, uint64_t index, uint64_t *offset);
/* Find the refcount of a cluster in a window over blocks. Sets *covered to whether one of the blocks
 * with numbers below `blocks` has it, else there is no place. */
bool find_refcount(struct refcounts *refcounts, struct window *window, uint64_t blocks,
                   uint64_t offset, struct refcount_place *place, bool *covered);
/* The same for its value; 0 where it is not covered. */
bool read_refcount(struct refcounts *refcounts, struct window *window, uint64_t blocks,
                   uint64_t offset, uint64_t *refcount, bool *covered);

#endif
