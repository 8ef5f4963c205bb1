/* Pure, either side: what an operation that only looks is given. */
#ifndef INSTAR_INSPECTION_H
#define INSTAR_INSPECTION_H

#include <stdint.h>

#include "image/io.h"
#include "inspect/sink.h"
#include "verdict.h"

struct inspection {
    const struct image_io *io; /* of which it only reads */
    uint64_t work_max;         /* bytes, see AMEND_*_WORK */
    const struct sink *sink;   /* for all that does not fit the result */
    struct verdict *verdict;   /* what is wrong with the image */
};

#endif
