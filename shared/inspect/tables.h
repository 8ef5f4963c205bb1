/* Pure, either side: the L1 and L2 tables of the image, for a check. */
#ifndef INSTAR_TABLES_H
#define INSTAR_TABLES_H

#include <stdbool.h>
#include <stdint.h>

#include "inspect/checking.h"

/* Count what an L1 table names; of the active one, take the allocation too. False: refused. */
bool count_table(struct checking *checking, uint64_t offset, uint64_t entries, bool active);
/* Compare the copied flags of the active tables with refcounts, once these have taken the place of the
 * counts. False: refused. */
bool check_flags(struct checking *checking);

#endif
