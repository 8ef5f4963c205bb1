/* Pure, either side: the layout of the amended header, and the switch to it. */
#ifndef INSTAR_LAYOUT_H
#define INSTAR_LAYOUT_H

#include <stdbool.h>

#include "amend/new_header.h"

/* Lay out the header for the target, and stage it. False: refused, no room. */
bool lay_out_header(struct new_header *new);

#endif
