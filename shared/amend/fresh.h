/* Pure, either side: what is written into clusters that have been taken. */
#ifndef INSTAR_FRESH_H
#define INSTAR_FRESH_H

#include <stdbool.h>
#include <stdint.h>

#include "image/io.h"

/* Stage a part of a structure, whole sectors, in INSTAR_PHASE_PREPARE. After the image's old end
 * all is zeros as soon as the file reaches that far: there, sectors of zeros are left out, except
 * for the last one of the `last` part, which makes the file reach that far. False: refused. */
bool write_fresh(struct image *image, uint64_t offset, uint8_t *data, uint32_t length, bool last);

/* Stage zeros in the same way up to `end`, where the structure ends; `memory` has room for `size` bytes. */
bool fill_fresh(struct image *image, uint64_t offset, uint64_t end, uint8_t *memory, uint32_t size);

#endif
