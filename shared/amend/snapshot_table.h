/* Pure, either side: a snapshot table with all that version 3 wants. */
#ifndef INSTAR_SNAPSHOT_TABLE_H
#define INSTAR_SNAPSHOT_TABLE_H

#include <stdbool.h>
#include <stdint.h>

#include "amend/books.h"
#include "qcow2/snapshots.h"

/* How large the entry is then, in bytes. */
uint32_t complete_size(const struct snapshot *snapshot);
/* Stage a copy of the snapshot table with all the extra data that version 3 wants, which takes `size`
 * bytes; *offset is its place. The old one is given up. False: refused. */
bool complete_snapshots(struct books *books, uint64_t size, uint64_t *offset);

#endif
