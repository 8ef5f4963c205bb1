/* Pure, either side: the active layer's tables for a disk of another size. */
#ifndef INSTAR_RESIZE_H
#define INSTAR_RESIZE_H

#include <stdbool.h>
#include <stdint.h>

#include "amend/books.h"
#include "amend/boundary.h"
#include "amend/tail.h"
#include "amend/target.h"

/* A change of the size. */
struct resize {
    struct books *books;
    struct target *target;
    struct boundary boundary;
    struct tail tail;
    uint64_t l1_size;    /* of the new L1 table */
    bool cut;            /* the L2 table that maps both sides of the boundary gives way to another one */
    uint64_t table;      /* which is here; 0: nothing would be in it */
    uint64_t filled;     /* L2 tables of zeros, which follow each other */
    uint64_t fill;       /* where the first one is */
    bool moves_l1;
};

/* Refuse what the target's size would show of the backing file, or of a damaged table, where both disks end. */
void check_boundary(struct books *books, struct target *target, uint64_t backing_size);

/* Stage what the target's size takes, set where its L1 table is, and set the part of the active layer that
 * stays. `backing_size` is the most bytes that the backing file has. False: refused. */
bool resize_layer(struct books *books, struct target *target, uint64_t backing_size,
                  struct resize *resize);

#endif
