/* Pure, either side: the amended header's bytes, and the switch to it. */
#ifndef INSTAR_LAYOUT_H
#define INSTAR_LAYOUT_H

#include <stdbool.h>
#include <stdint.h>

#include "amend/target.h"

/* The header as it will be. */
struct new_header {
    struct qcow2_image *image;
    const struct target *target;
    uint8_t *bytes;      /* HEADER_SIZE bytes of memory */
    bool atomic;         /* the switch to it is the write of one sector */
    uint32_t fields_end; /* layout.c's own: where the extensions start if they move, else 0 */
};

/* Lay out the header for the target, and stage it. False: refused, no room. */
bool lay_out_header(struct new_header *new);

#endif
