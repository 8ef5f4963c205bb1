/* Pure, either side: what else uses a cluster. Uses are AMEND_USE_*. */
#ifndef INSTAR_OVERLAP_H
#define INSTAR_OVERLAP_H

#include <stdbool.h>
#include <stdint.h>

#include "qcow2/image.h"
#include "qcow2/refcounts.h"

/* Of all these, false means refused. */

/* Refuse, as the cluster at `offset` has two uses; returns false. */
bool refuse_overlap(struct qcow2_image *image, uint64_t offset, uint32_t use, uint32_t other);
/* Whether nothing of [offset, offset + length), which is for `use`, belongs to the header or to a
 * table that it or an extension names, unless that is the same use. */
bool is_free_of_tables(struct qcow2_image *image, uint64_t offset, uint64_t length, uint32_t use);
/* The same for a cluster of a table, which by its refcount has no other user either. */
bool is_exclusive(struct refcounts *refcounts, uint64_t offset, uint32_t use);
/* Whether the data of this compressed cluster do not begin in the header's cluster. */
bool is_apart_from_header(struct qcow2_image *image, const uint8_t *entry);
/* Whether nothing but the header is in its cluster; `empty` says that there are only zeros where it
 * would be overwritten. The snapshot table must have been checked. */
bool is_header_alone(struct qcow2_image *image, bool empty);

#endif
