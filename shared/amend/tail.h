/* Pure, either side: the cluster that the end of a disk is within, when the disk grows. */
#ifndef INSTAR_TAIL_H
#define INSTAR_TAIL_H

#include <stdbool.h>
#include <stdint.h>

#include "amend/books.h"
#include "amend/boundary.h"

/* What hid past the end must not show, nor what a backing file has there. */
struct tail {
    uint64_t cluster;     /* with bytes past the end that are not zeros; 0: there are none */
    uint64_t start, end;  /* of these in the cluster */
    bool shared;          /* a snapshot uses the cluster too, or may do so */
    uint64_t entry;       /* the cluster's entry, as it is to be but for a new place */
    uint64_t subclusters; /* its second half */
    bool changed;         /* is another one than it was */
};

/* Of all these, false means refused. */

/* See what has to be done; `backed` says that a backing file has something past the end. */
bool find_tail(struct books *books, struct boundary *boundary, bool backed, struct tail *tail);
/* Stage a copy of the cluster at `copy`, with zeros past the end, or, in place, what changes of it;
 * this takes memory->batch. */
bool stage_tail(struct qcow2_image *image, const struct tail *tail, uint64_t copy);

#endif
