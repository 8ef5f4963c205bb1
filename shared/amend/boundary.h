/* Pure, either side: where the active layer is cut when the size of its disk changes. */
#ifndef INSTAR_BOUNDARY_H
#define INSTAR_BOUNDARY_H

#include <stdbool.h>
#include <stdint.h>

#include "qcow2/image.h"

/* The last byte that both sizes have, and what the tables have of it. */
struct boundary {
    uint64_t at;          /* of the disk: from here on, one of the sizes does not have it */
    uint64_t fill_end;    /* number of a cluster of the disk: those before it have to hide a backing file */
    uint64_t l1_kept;     /* entries of the L1 table that map anything before the boundary */
    uint64_t table;       /* the L2 table that maps both sides of it; 0: there is none */
    uint64_t first;       /* its first entry of a cluster wholly past it; 0 if none maps both */
    uint64_t entry;       /* of the cluster that the boundary is within; 0 if it is within none */
    uint64_t subclusters; /* the second half of that entry, if it is extended */
    struct window l1, l2; /* over the two tables */
};

/* Of all these, false means refused. */

/* Find the boundary at byte `at` of the disk; `end` is the larger one of its sizes. */
bool find_boundary(struct qcow2_image *image, uint64_t at, uint64_t end, uint64_t fill_end,
                   struct boundary *boundary);
/* Whether any entry of the active L1 table in [first, end), which may reach into its last cluster's
 * rest, is not 0. */
bool has_l1_entries(struct qcow2_image *image, struct boundary *boundary, uint64_t first,
                    uint64_t end, bool *any);
/* Whether an entry of the table past the boundary, extended or not, is not what it should be. */
bool has_remains(struct qcow2_image *image, struct boundary *boundary, bool *any);
/* What the table's entry `index`, past the boundary, has to be: nothing, or zeros over a backing
 * file. */
void store_wanted(const struct qcow2_image *image, const struct boundary *boundary, uint64_t index,
                  uint8_t *entry);

#endif
