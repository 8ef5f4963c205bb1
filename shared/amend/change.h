/* Pure, either side: changes of entries of L2 tables. */
#ifndef INSTAR_CHANGE_H
#define INSTAR_CHANGE_H

#include <stdbool.h>
#include <stdint.h>

#include "image/writes.h"
#include "qcow2/walk.h"

/* Of all these, false means refused. */

/* Let `change` work on each entry of an L2 table's part that it `concerns`, and add the sectors with
 * changed entries to the walk's changes. */
bool change_part(struct walk *walk, const struct io_range *part,
                 bool (*concerns)(const uint8_t *entry),
                 bool (*change)(struct walk *walk, uint64_t place, uint8_t *entry));
/* Add the sector at byte `at` of the part to them, unless it belongs to another table too. */
bool add_table_sector(struct walk *walk, const struct io_range *part, uint64_t at);

#endif
