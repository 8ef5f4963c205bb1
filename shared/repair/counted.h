/* Pure, either side: refcounts that follow from what has been counted in the image. */
#ifndef INSTAR_COUNTED_H
#define INSTAR_COUNTED_H

#include <stdint.h>

#include "amend/recode.h"
#include "inspect/counts.h"
#include "qcow2/image.h"

/* A source for recode(): all counts, with which no refcount structure is counted. */
struct counted {
    struct qcow2_image *image;
    struct counts *counts;
    uint64_t clusters; /* that are counted */
    uint64_t next;     /* one of them */
};

struct count_source counted_source(struct counted *counted);

#endif
