/* Guest, untrusted: frames of an operation that only looks, sent so that all fit the buffer. */
#ifndef INSTAR_WAITING_H
#define INSTAR_WAITING_H

#include "blocks.h"

/* Bytes that may wait in the executor's buffer so that the largest frame still fits after them. */
#define WAITING_MAX (INSTAR_TRANSMIT_MAX - FRAME_PAYLOAD_MAX - (uint32_t)sizeof(struct FrameHeader))

/* As sink.send has it; `context` counts the bytes that wait. */
static inline void send_waiting(void *context, uint32_t type, const void *payload, uint32_t length)
{
    uint32_t *waiting = context;
    *waiting += length + (uint32_t)sizeof(struct FrameHeader);
    bool push = *waiting > WAITING_MAX;
    calls->send_frame(type, payload, length, push);
    if (push)
        *waiting = 0;
}

#endif
