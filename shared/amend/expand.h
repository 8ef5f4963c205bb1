/* Pure, either side: what version 2 lacks in L2 tables, and how it gets by without. */
#ifndef INSTAR_EXPAND_H
#define INSTAR_EXPAND_H

#include <stdbool.h>
#include <stdint.h>

#include "amend/books.h"
#include "amend/detach.h"
#include "image/io.h"

/* What L2 tables have that version 2 does not have, or not in every image. */
struct downgrade_counts {
    uint64_t zero;
    uint64_t allocated; /* of these, with a cluster of their own */
    uint64_t compressed;
    bool drops;               /* plain zero clusters that read as zeros without an entry */
    struct table_set *tables; /* those with zero clusters */
    struct io_sectors *few;   /* memory for changes of L2 tables */
};

/* What is needed at one time and not at another. */
union expansion_memory {
    struct io_segment segments[INSTAR_ZEROES_SEGMENTS_MAX];
    struct agenda_memory agenda;
};

/* Look for that in every L2 table; what cannot be helped is refused. Where nothing stands against it, the
 * change of plain zero clusters is staged on the way. The snapshots must have been checked. `tables` and
 * `few` need not be initialised; both are used by expand_zero_clusters() too. */
void scan_for_downgrade(struct qcow2_image *image, struct table_set *tables,
                        struct io_sectors *few, struct downgrade_counts *counts);
/* Stage what turns all zero clusters into something that version 2 knows and that reads the same. False:
 * refused. */
bool expand_zero_clusters(struct books *books, union expansion_memory *memory,
                          const struct downgrade_counts *counts);

#endif
