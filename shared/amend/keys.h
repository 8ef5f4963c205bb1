/* Pure, either side: whether the host may change keys of this image; the planner changes none. */
#ifndef INSTAR_KEYS_H
#define INSTAR_KEYS_H

#include <stdbool.h>

#include "amend/amendment.h"

/* Whether the image is encrypted with LUKS, and its header's region is that and nothing else: in the
 * file, with a refcount of 1 for each cluster, and no place of a table that the header names. False:
 * refused. The snapshot table must have been checked. The host looks for all other uses. */
bool check_luks_region(struct amendment *amendment);

#endif
