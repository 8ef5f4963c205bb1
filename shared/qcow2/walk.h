/* Pure, either side: a visit to every L2 table of an image. */
#ifndef INSTAR_WALK_H
#define INSTAR_WALK_H

#include <stdbool.h>
#include <stdint.h>

#include "image/writes.h"
#include "qcow2/image.h"

/* Some L2 tables, and perhaps others; which, is kept by their numbers' last bits. */
#define TABLE_SET_BITS 0x10000u
struct table_set {
    uint64_t bits[TABLE_SET_BITS / 64];
};
void add_table(struct table_set *set, const struct qcow2_image *image, uint64_t table);

/* Every L2 table that is allocated is visited, and perhaps some of them twice. */
struct walk {
    struct qcow2_image *image;
    uint32_t phase;                         /* the view of L2 tables, as in image_io.read */
    uint64_t active_entries;                /* of the active L1 table, no others; 0: all */
    bool snapshots;                         /* look at the snapshots' L2 tables too */
    bool active;                            /* the tables being visited are the active L1 table's */
    uint64_t progress_from, progress_total; /* 0: report none */
    /* L2 tables, or parts of them, in memory->batch. False: the walk ends. */
    bool (*visit)(struct walk *walk, const struct io_range *part);
    struct write_list changes;    /* staged when the whole batch has been visited */
    bool fills_gaps;              /* few sectors between two that change may be staged as they are */
    bool stages_late;             /* or after it: what is visited twice is changed alike */
    const struct table_set *only; /* others need not be visited; null: all are */
    void *context;

    uint64_t done, told; /* L1 entries, and of how many of them the last progress told */
    bool any_seen;       /* memory->seen holds tables of this walk */
    uint64_t batch_bytes;
    uint32_t range_count;
    struct io_range ranges[IO_RANGES_MAX];
    uint64_t active_first; /* where in the active L1 table memory->other_table is from */
    bool active_loaded;
    uint32_t queued; /* short L1 tables in memory->table */
    struct io_range queue[IO_RANGES_MAX];
};

/* False: refused, or `visit` has said so. The snapshot table must have been checked. */
bool walk_tables(struct walk *walk);

#endif
