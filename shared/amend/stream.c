/* Pure, either side: stages bytes of the image in ascending order, many at a time. */
#include "amend/stream.h"

#include <string.h>

void start_stream(struct stream *stream, struct image *image, uint8_t *data, uint32_t size,
                  uint64_t offset)
{
    *stream = (struct stream){
        .image = image,
        .data = data,
        .size = size,
        .offset = offset,
        .end = offset,
        .list = {.phase = INSTAR_PHASE_PREPARE},
    };
}

void skip_to(struct stream *stream, uint64_t offset)
{
    if (offset > stream->end)
        stream->end = offset;
}

bool fill_to(struct stream *stream, uint64_t end)
{
    while (stream->end < end) {
        if (stream->end >= stream->offset + stream->size) {
            if (!finish_stream(stream))
                return false;
            stream->offset = stream->end;
        }
        uint64_t room = stream->offset + stream->size - stream->end;
        uint32_t length = (uint32_t)(end - stream->end < room ? end - stream->end : room);
        uint8_t *data = byte_at(stream, stream->end);
        memset(data, 0, length);
        if (!add_write(stream->image, &stream->list, stream->end, data, length))
            return false;
        stream->end += length;
    }
    return true;
}

bool finish_stream(struct stream *stream)
{
    return flush_writes(stream->image, &stream->list);
}
