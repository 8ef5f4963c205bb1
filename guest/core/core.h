/* Guest, untrusted: what the parts of the executor know of each other. */
#ifndef INSTAR_CORE_H
#define INSTAR_CORE_H

#include <stdbool.h>
#include <stdint.h>

#include "call_table.h"

/* The DMA window: request headers and status bytes, the transmit buffer, then the operation's part. */
#define CORE_REQUESTS_ADDR INSTAR_DMA_ADDR
#define CORE_TRANSMIT_ADDR (INSTAR_DMA_ADDR + 0x1000)
#define CORE_WORKSPACE_ADDR (INSTAR_DMA_ADDR + 0x2000)

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
bool block_scatter(uint32_t phase, const uint64_t *sectors, const uint8_t *data, uint32_t count);
bool block_zero(const struct block_segment *segments, uint32_t count);
void transmit_frame(uint32_t type, const void *payload, uint32_t length, bool push);

#endif
