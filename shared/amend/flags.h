/* Pure, either side: OFLAG_COPIED of what an amend leaves to one user. */
#ifndef INSTAR_FLAGS_H
#define INSTAR_FLAGS_H

#include <stdbool.h>

#include "amend/books.h"

/* Set OFLAG_COPIED where an active L2 entry is the one user that is left. False: refused, as the flag
 * would be in an L1 table, which nothing changes, or `may_change_entries` is false. */
bool set_copied_flags(struct books *books, bool may_change_entries);

#endif
