/* Guest, untrusted: what the parts of the executor know of each other. */
#ifndef INSTAR_CORE_H
#define INSTAR_CORE_H

#include <stdbool.h>
#include <stdint.h>

#include "call_table.h"

/* The DMA window: what was read ahead; request headers and status bytes; data of requests that wait; the
 * transmit buffer; then the operation's part. */
#define CORE_REQUESTS_ADDR INSTAR_AHEAD_END
#define CORE_WAITING_ADDR (CORE_REQUESTS_ADDR + 0x400)
#define CORE_TRANSMIT_ADDR (CORE_WAITING_ADDR + 0x600)
#define CORE_WORKSPACE_ADDR (CORE_TRANSMIT_ADDR + INSTAR_TRANSMIT_MAX)

/* Codes of INSTAR_PORT_EXIT; all of them are guest faults to the host, which ends a run
 * with its result. */
enum exit_code {
    EXIT_NO_RESULT = 0,       /* the operation returned without one */
    EXIT_PANIC_QUEUE = 1,    /* the device returned something it was not given */
    EXIT_PANIC_TRANSMIT = 2, /* a frame does not fit the transmit buffer */
};

static inline void out8(uint16_t port, uint8_t value)
{
    __asm__ volatile("outb %0, %1" : : "a"(value), "Nd"(port) : "memory");
}

_Noreturn void exit_vm(enum exit_code code);

bool block_read(uint32_t phase, const struct block_range *ranges, uint32_t count);
bool block_write(uint32_t phase, const struct block_range *ranges, uint32_t count);
bool block_scatter(uint32_t phase, const uint64_t *sectors, const uint8_t *data, uint32_t count,
                   bool later);
bool block_zero(const struct block_segment *segments, uint32_t count);
/* Whether requests wait for a doorbell. */
bool has_waiting(void);
/* Whether the device carried out what waited, now that a doorbell has rung; nothing waits any more. */
bool end_waiting(void);
void transmit_frame(uint32_t type, const void *payload, uint32_t length, bool push);

#endif
