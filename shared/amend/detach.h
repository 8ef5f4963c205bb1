/* Pure, either side: zero clusters of an image that share their host clusters. */
#ifndef INSTAR_DETACH_H
#define INSTAR_DETACH_H

#include <stdbool.h>
#include <stdint.h>

#include "amend/books.h"
#include "qcow2/walk.h"

/* Entries of a part of an L2 table that are still to be looked at, and sectors that have changed. */
struct agenda_memory {
    uint64_t pending[BATCH_SIZE / 8 / 64];              /* a bit for each entry */
    uint64_t changed[BATCH_SIZE / SECTOR_SIZE / 64]; /* a bit for each sector */
    uint64_t refcounts[BATCH_SIZE / SECTOR_SIZE];    /* of each table of a batch, as needed */
};

/* Turn zero clusters that share their host cluster into plain ones; all are in these tables. `few` is memory
 * for the changes. False: refused. */
bool detach_zero_clusters(struct books *books, struct agenda_memory *agenda,
                          const struct table_set *tables, struct io_sectors *few);

#endif
