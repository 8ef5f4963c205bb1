/* Pure, either side: the header of an image. */
#ifndef INSTAR_HEADER_H
#define INSTAR_HEADER_H

#include <stdbool.h>
#include <stdint.h>

#include "qcow2/image.h"

/* Parse and judge all fields that a reader of the image depends on. False: what follows the header
 * cannot be looked at. */
bool parse_header(struct qcow2_image *image);
/* Have the header's bytes up to `end` in memory. False: refused. */
bool load_header(struct qcow2_image *image, uint64_t end);

#endif
