/* The contract between the two guest images: how an operation reaches the outside, and nothing else.
 *
 * The executor lays the table out at INSTAR_CALL_TABLE_ADDR. Its version must equal the operation's
 * INSTAR_ABI_VERSION; entries are append-only.
 */
#ifndef INSTAR_CALL_TABLE_H
#define INSTAR_CALL_TABLE_H

#include <stdbool.h>
#include <stdint.h>

#include "instar_abi.h"

#define CALL_TABLE_MAGIC 0x494d4147

/* One block request: whole sectors at `offset` of the image; `buffer` lies in the DMA window. */
struct block_range {
    uint64_t offset;
    uint64_t length;
    uint8_t *buffer;
};

/* virtio_blk_discard_write_zeroes (virtio 1.2, 5.2.6); in units of 512 bytes. */
struct block_segment {
    uint64_t sector;
    uint32_t num_sectors;
    uint32_t flags; /* 0 */
};

#define CALL_TABLE_RANGES_MAX 40
/* Bytes that an operation's workspace has in the least RAM, and so in any. */
#define CALL_TABLE_WORKSPACE_MIN 0x1a4000

struct call_table {
    uint32_t magic;
    uint32_t version;
    /* Each puts all ranges before the host at once. What was read ahead needs no doorbell, and little that
     * is written goes along with the next one. `phase` is INSTAR_PHASE_*, with the meaning it has in a
     * block request. False: the host reported an error. */
    bool (*read_blocks)(uint32_t phase, const struct block_range *ranges, uint32_t count);
    bool (*write_blocks)(uint32_t phase, const struct block_range *ranges, uint32_t count);
    /* Zero the segments, which lie in the DMA window, in INSTAR_PHASE_PREPARE. */
    bool (*zero_blocks)(const struct block_segment *segments, uint32_t count);
    /* Send frames; up to INSTAR_TRANSMIT_MAX bytes wait until a frame is sent with `push`. */
    void (*send_frame)(uint32_t type, const void *payload, uint32_t length, bool push);
    /* Early text, a byte and an exit at a time. */
    void (*debug)(const char *text);
    /* The part of the DMA window that is the operation's; its entry is given the size. */
    uint8_t *workspace;
    /* Write `count` sectors, whose numbers and data lie in the DMA window, with one request. With `later`
     * it goes along with the next doorbell, and numbers and data must stay as long; each read rings one
     * then. Without, all that waits is done too. */
    bool (*scatter_blocks)(uint32_t phase, const uint64_t *sectors, const uint8_t *data,
                           uint32_t count, bool later);
};

/* An operation's entry; when it returns, the run ends. */
typedef void operation_entry(uint64_t workspace_size);

#endif
