/* Pure, either side: OFLAG_COPIED of all that is in the active layer. */
#ifndef INSTAR_MEND_FLAGS_H
#define INSTAR_MEND_FLAGS_H

#include <stdbool.h>

#include "inspect/counts.h"
#include "qcow2/image.h"

/* Stage the flag, in INSTAR_PHASE_MAPPING, where it is not what the counts say: set if and only if there is
 * one user ("OFLAG_COPIED"). False: refused. */
bool mend_flags(struct qcow2_image *image, const struct counts *counts);

#endif
