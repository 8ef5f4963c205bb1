/* Pure, either side: the refcounts of an image as it is, without those of its refcount structures. */
#ifndef INSTAR_OLD_COUNTS_H
#define INSTAR_OLD_COUNTS_H

#include <stdbool.h>
#include <stdint.h>

#include "amend/recode.h"
#include "qcow2/refcounts.h"

/* A source for recode(). In it the refcount table and the blocks have lost one user each: they are given up. */
struct old_counts {
    struct refcounts *refcounts;
    uint64_t structures; /* clusters of the table and of blocks */
    uint64_t given_up;   /* of these, how many were met so far */
    uint64_t index;      /* of the block of which the next part is to be read */
    uint32_t at;         /* where in the block that is */
    uint64_t span;       /* of which the structures' clusters are known */
    bool span_known;
    uint32_t parts; /* of blocks in memory */
    uint32_t next;  /* one of them */
    uint64_t firsts[IO_RANGES_MAX]; /* the first cluster that each part counts */
};

/* Judge the refcount table, whose reading has begun, and get ready. False: refused. */
bool open_old_counts(struct old_counts *old, struct refcounts *refcounts);
struct count_source old_counts_source(struct old_counts *old);

#endif
