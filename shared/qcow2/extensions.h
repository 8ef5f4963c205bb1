/* Pure, either side: the header extensions of an image. */
#ifndef INSTAR_EXTENSIONS_H
#define INSTAR_EXTENSIONS_H

#include <stdbool.h>
#include <stdint.h>

#include "qcow2/image.h"

/* One header extension, at `offset` in the header; `size` counts its header and padding too. */
struct extension {
    uint32_t offset;
    uint32_t type;
    uint32_t length;
    uint32_t size;
};

/* The text in `size` bytes of the header that have been read. */
struct header_text text_of(const struct qcow2_image *image, uint32_t offset, uint32_t size);
/* Judge the extensions of a parsed header. False: refused. */
bool parse_extensions(struct qcow2_image *image);
/* Step to the next extension; start with *at = header_length. False: no more. For parsed headers. */
bool next_extension(const struct qcow2_image *image, uint32_t *at, struct extension *extension);

#endif
