/* Pure, either side: L2 tables that the active layer drops. */
#ifndef INSTAR_DROP_H
#define INSTAR_DROP_H

#include <stdbool.h>
#include <stdint.h>

#include "amend/books.h"

/* Of all these, false means refused. The active layer gives up one reference of each; what snapshots use
 * they keep. */

/* Give up what an L2 table's entries from number `first` on name. */
bool drop_entries(struct books *books, uint64_t table, uint64_t first);
/* Give up the L2 tables that the active L1 table names in [first, end), and what these name. */
bool drop_tables(struct books *books, uint64_t first, uint64_t end);

#endif
