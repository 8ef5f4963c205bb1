/* Pure, either side: what the options of an amend share while it is planned. */
#ifndef INSTAR_AMENDMENT_H
#define INSTAR_AMENDMENT_H

#include <stdbool.h>
#include <stdint.h>

#include "amend/books.h"
#include "amend/expand.h"
#include "amend/flags.h"
#include "amend/target.h"
#include "amend/workspace.h"
#include "qcow2/image.h"

struct amendment {
    struct planner_workspace *workspace;
    struct qcow2_image image;
    struct books books;
    struct target target;
    struct kept_layer kept;
    bool may_drop_bitmaps;          /* persistent bitmaps that are in the way may be removed */
    bool may_change_backing;        /* else a backing file is given to confirm it */
    bool may_shrink;                /* the disk may become smaller */
    uint64_t backing_size;          /* the backing file has no more bytes */
    struct downgrade_counts counts; /* set by options/compat.c for a downgrade */
    uint64_t
        snapshots_needed; /* bytes of a snapshot table that will do; 0 if the present one will */
    bool walked;          /* all L2 tables, which is what is told of the progress */
};

#endif
