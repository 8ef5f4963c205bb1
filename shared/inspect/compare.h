/* Pure, either side: compares what a check has counted with the refcounts of the untrusted image. */
#ifndef INSTAR_COMPARE_H
#define INSTAR_COMPARE_H

#include <stdbool.h>
#include <stdint.h>

#include "inspect/checking.h"

/* Of all these, false means refused. */

/* The refcount table's entry as it stands. */
bool read_entry(struct checking *checking, uint64_t index, uint64_t *entry);
/* Whether the refcount of the cluster at `offset` is in a block that cannot be. */
bool is_unreadable(struct checking *checking, uint64_t offset, bool *unreadable);
/* Compare all clusters of the window; then refcounts, cut to 2, stand in the place of the counts. */
bool compare_counts(struct checking *checking);

#endif
