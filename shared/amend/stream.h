/* Pure, either side: bytes of the image that are staged once, in ascending order. */
#ifndef INSTAR_STREAM_H
#define INSTAR_STREAM_H

#include <stdbool.h>
#include <stdint.h>

#include "image/writes.h"

/* A stream belongs to INSTAR_PHASE_PREPARE. All offsets are multiples of 512 in the image, but for those of
 * single bytes. */
struct stream {
    struct image *image;
    uint8_t *data; /* memory, which holds a part of what is written last */
    uint32_t size; /* of it, a multiple of 512 */
    uint64_t offset; /* of it in the image */
    uint64_t end;    /* what lies before is in memory, staged, or left out */
    struct write_list list;
};

/* Start to write at `offset`. */
void start_stream(struct stream *stream, struct image *image, uint8_t *data, uint32_t size,
                  uint64_t offset);
/* Go on at `offset`, unless the stream is there already: what lies between is not written. */
void skip_to(struct stream *stream, uint64_t offset);
/* Write zeros up to `end`, if the stream is not there already. False: refused. */
bool fill_to(struct stream *stream, uint64_t end);
/* A byte of the last sector that has been filled; it may be changed until there is another one. */
static inline uint8_t *byte_at(struct stream *stream, uint64_t offset)
{
    return stream->data + (offset - stream->offset);
}
/* Stage what is still in memory. False: refused. */
bool finish_stream(struct stream *stream);

#endif
