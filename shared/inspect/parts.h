/* Pure, either side: reads many parts of the untrusted image at once, and has each looked at, in order. */
#ifndef INSTAR_PARTS_H
#define INSTAR_PARTS_H

#include <stdbool.h>
#include <stdint.h>

#include "image/io.h"
#include "qcow2/image.h"

#define PART_MAX (BATCH_SIZE / 2)

/* Looks at a part, whose bytes are aligned to 512; `tag` is what it was queued with. False: refused. */
typedef bool visit_part(void *context, const uint8_t *bytes, uint32_t size, uint64_t tag);

/* Parts that are still to be read. They are read into memory->batch, which is nobody else's meanwhile. */
struct parts {
    struct qcow2_image *image;
    visit_part *visit;
    void *context;
    uint32_t count;
    uint32_t bytes;
    struct io_range ranges[IO_RANGES_MAX];
    uint64_t tags[IO_RANGES_MAX];
};

/* Of both, false means refused. Where the image has ended, a part is zeros. */

/* Queue whole sectors, up to PART_MAX bytes. */
bool add_part(struct parts *parts, uint64_t offset, uint32_t size, uint64_t tag);
/* Read and visit what is queued. */
bool flush_parts(struct parts *parts);

#endif
