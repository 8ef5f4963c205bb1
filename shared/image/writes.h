/* Pure, either side: what is staged: writes, many at a time, and zeros. */
#ifndef INSTAR_WRITES_H
#define INSTAR_WRITES_H

#include <stdbool.h>
#include <stdint.h>

#include "image/io.h"

/* Of all these, false means refused: an I/O error, too much, or a refusal before it. */

/* Ranges to be written together. Few sectors are copied to `few`, if it is not null, where they wait for
 * others: until flush_few() they are not staged, and what is read lacks them. */
struct write_list {
    uint32_t phase;
    uint32_t count;
    uint32_t few_count;
    struct io_sectors *few;
    struct io_range ranges[IO_RANGES_MAX];
};
bool add_write(struct image *image, struct write_list *list, uint64_t offset, uint8_t *data,
               uint32_t length);
bool flush_writes(struct image *image, struct write_list *list);
/* With `later` they need not be staged before the next read, and nothing may be added until then. */
bool flush_few(struct image *image, struct write_list *list, bool later);
bool write_image(struct image *image, uint32_t phase, uint64_t offset, uint8_t *data,
                 uint32_t length);

/* Segments to be zeroed together. */
struct zero_list {
    struct io_segment *segments; /* room for INSTAR_ZEROES_SEGMENTS_MAX */
    uint32_t count;
    uint32_t sent;
};
/* Zero whole sectors in INSTAR_PHASE_PREPARE, as far as the image reaches. */
bool add_zeroes(struct image *image, struct zero_list *list, uint64_t offset, uint32_t length);
bool flush_zeroes(struct image *image, struct zero_list *list);

#endif
