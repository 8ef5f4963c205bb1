/* Pure, either side: where an operation that only looks leaves its records. */
#ifndef INSTAR_SINK_H
#define INSTAR_SINK_H

#include <stdbool.h>
#include <stdint.h>

#include "instar_abi.h"

/* Takes frames, in order; `type` is FRAME_*, `length` at most FRAME_PAYLOAD_MAX. */
struct sink {
    void *context;
    void (*send)(void *context, uint32_t type, const void *payload, uint32_t length);
};

/* Records of one kind, many of which go into a frame. */
struct record_list {
    const struct sink *sink;
    uint32_t type;
    uint32_t used;
    uint32_t left; /* bytes of records that may still be told */
    uint8_t bytes[FRAME_PAYLOAD_MAX];
};

void start_records(struct record_list *list, const struct sink *sink, uint32_t type);
/* Make room for a record of `size` bytes, up to FRAME_PAYLOAD_MAX, which the caller fills. Null: too
 * many have been told. */
uint8_t *add_record(struct record_list *list, uint32_t size);
/* Send what is left. */
void end_records(struct record_list *list);

#endif
