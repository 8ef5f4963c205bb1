/* Pure, either side: OFLAG_COPIED of what an amend leaves to one user. */
#ifndef INSTAR_FLAGS_H
#define INSTAR_FLAGS_H

#include <stdbool.h>

#include "amend/books.h"

/* The part of the active layer that an amend keeps: the first entries of its L1 table and all that
 * they name, except for what one L2 table has from some place on. */
struct kept_layer {
    uint64_t l1_entries;
    uint64_t cut_table; /* 0: there is none */
    uint64_t cut_place; /* in the image */
};

/* Set OFLAG_COPIED where an active L2 entry is the one user that is left. False: refused, as the flag
 * would be in an L1 table, which nothing changes, or `may_change_entries` is false. */
bool set_copied_flags(struct books *books, const struct kept_layer *kept, bool may_change_entries);

#endif
