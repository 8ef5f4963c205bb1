/* Guest, untrusted: the driver of the block queue (virtio 1.2, 5.2 "Block Device"). */
#include <string.h>

#include "core.h"
#include "virtqueue.h"

#define VIRTIO_BLK_T_IN 0
#define VIRTIO_BLK_T_OUT 1
#define VIRTIO_BLK_T_WRITE_ZEROES 13
#define VIRTIO_BLK_S_OK 0
#define SECTOR_SHIFT 9

struct virtio_blk_req {
    uint32_t type;
    uint32_t phase; /* virtio's reserved word: see abi/instar_abi.h */
    uint64_t sector;
};

/* What one request occupies in the DMA window besides its data. */
struct request {
    struct virtio_blk_req header;
    uint8_t status;
};

static struct virtq_desc *const desc = (struct virtq_desc *)INSTAR_BLOCK_DESC_ADDR;
static struct virtq_avail *const avail = (struct virtq_avail *)INSTAR_BLOCK_AVAIL_ADDR;
static volatile struct virtq_used *const used = (struct virtq_used *)INSTAR_BLOCK_USED_ADDR;
static struct request *const requests = (struct request *)CORE_REQUESTS_ADDR;

static uint32_t waiting;       /* requests that the next doorbell announces */
static uint32_t waiting_bytes; /* of their data, all that is kept at CORE_WAITING_ADDR */
static bool scatter_waits;     /* one of them reads its data from where the operation has them */

/* Of each request three descriptors, and the fourth one of a request to scatter. */
#define SCATTER_DESC (CALL_TABLE_RANGES_MAX * 3)
_Static_assert(SCATTER_DESC < INSTAR_BLOCK_QUEUE_SIZE, "the queue holds all requests");
_Static_assert(CALL_TABLE_RANGES_MAX * sizeof(struct request) <= CORE_WAITING_ADDR - CORE_REQUESTS_ADDR,
               "the requests overlap the data that waits");

/* Lay out one more request that waits: header, data, status. */
static void put_request(uint32_t type, uint32_t phase, uint64_t sector, const void *data, uint64_t size)
{
    struct request *r = &requests[waiting];
    uint16_t head = (uint16_t)(3 * waiting);
    uint16_t data_flags = type == VIRTIO_BLK_T_IN ? VIRTQ_DESC_F_WRITE : 0;
    r->header = (struct virtio_blk_req){type, phase, sector};
    r->status = 0xff;
    desc[head] = (struct virtq_desc){(uintptr_t)&r->header, sizeof(r->header), VIRTQ_DESC_F_NEXT,
                                     (uint16_t)(head + 1)};
    desc[head + 1] =
        (struct virtq_desc){(uintptr_t)data, (uint32_t)size,
                            (uint16_t)(VIRTQ_DESC_F_NEXT | data_flags), (uint16_t)(head + 2)};
    desc[head + 2] =
        (struct virtq_desc){(uintptr_t)&r->status, sizeof(r->status), VIRTQ_DESC_F_WRITE, 0};
    avail->ring[avail->idx % INSTAR_BLOCK_QUEUE_SIZE] = head;
    avail->idx++;
    waiting++;
}

bool has_waiting(void)
{
    return waiting != 0;
}

bool end_waiting(void)
{
    bool done = true;
    if (used->idx != avail->idx)
        exit_vm(EXIT_PANIC_QUEUE);
    for (uint32_t i = 0; i < waiting; i++)
        if (*(volatile uint8_t *)&requests[i].status != VIRTIO_BLK_S_OK)
            done = false;
    waiting = waiting_bytes = 0;
    scatter_waits = false;
    return done;
}

/* Ring the doorbell for all that waits; the device is done with it when the OUT returns. */
static bool submit(void)
{
    if (!waiting)
        return true;
    out8(INSTAR_PORT_NOTIFY, INSTAR_BLOCK_QUEUE);
    return end_waiting();
}

/* Make room for this many more requests. */
static bool make_room(uint32_t count)
{
    return count <= CALL_TABLE_RANGES_MAX && (waiting <= CALL_TABLE_RANGES_MAX - count || submit());
}

/* Fill the range, if it lies in what the host has read ahead. */
static bool copy_ahead(const struct block_range *range)
{
    const struct AheadPart *part = (const struct AheadPart *)INSTAR_AHEAD_ADDR;
    for (uint32_t i = 0; i < INSTAR_AHEAD_PARTS; i++, part++) {
        uint64_t skipped = range->offset - part->offset; /* wraps before the part, and is too large */
        if (skipped > part->length || range->length > part->length - skipped)
            continue;
        memcpy(range->buffer, (const uint8_t *)(uintptr_t)part->addr + skipped, range->length);
        return true;
    }
    return false;
}

bool block_read(uint32_t phase, const struct block_range *ranges, uint32_t count)
{
    if (!make_room(count))
        return false;
    uint32_t before = waiting;
    for (uint32_t i = 0; i < count; i++)
        if (phase != INSTAR_PHASE_PREPARE || !copy_ahead(&ranges[i]))
            put_request(VIRTIO_BLK_T_IN, phase, ranges[i].offset >> SECTOR_SHIFT, ranges[i].buffer,
                        ranges[i].length);
    return (waiting == before && !scatter_waits) || submit();
}

/* A small write can wait for the next doorbell, but its buffer cannot: its data are copied. */
static const uint8_t *keep(const struct block_range *range)
{
    uint8_t *kept = (uint8_t *)CORE_WAITING_ADDR + waiting_bytes;
    if (range->length > CORE_TRANSMIT_ADDR - CORE_WAITING_ADDR - waiting_bytes)
        return 0;
    memcpy(kept, range->buffer, range->length);
    waiting_bytes += (uint32_t)range->length;
    return kept;
}

bool block_write(uint32_t phase, const struct block_range *ranges, uint32_t count)
{
    bool all_kept = true;
    if (!make_room(count))
        return false;
    for (uint32_t i = 0; i < count; i++) {
        const uint8_t *kept = keep(&ranges[i]);
        put_request(VIRTIO_BLK_T_OUT, phase, ranges[i].offset >> SECTOR_SHIFT,
                    kept ? kept : ranges[i].buffer, ranges[i].length);
        all_kept = all_kept && kept;
    }
    return all_kept || submit();
}

bool block_scatter(uint32_t phase, const uint64_t *sectors, const uint8_t *data, uint32_t count,
                   bool later)
{
    if (count > INSTAR_BLOCK_REQUEST_MAX >> SECTOR_SHIFT || (scatter_waits && !submit()) ||
        !make_room(1))
        return false;
    if (count) {
        /* Header, the sectors' numbers, data, status. */
        put_request(INSTAR_BLOCK_SCATTER, phase, 0, sectors, count * sizeof(*sectors));
        struct virtq_desc *numbers = &desc[3 * waiting - 2];
        desc[SCATTER_DESC] = (struct virtq_desc){(uintptr_t)data, count << SECTOR_SHIFT,
                                                 VIRTQ_DESC_F_NEXT, numbers->next};
        numbers->next = SCATTER_DESC;
        scatter_waits = true;
    }
    return later || submit();
}

bool block_zero(const struct block_segment *segments, uint32_t count)
{
    if (count > INSTAR_ZEROES_SEGMENTS_MAX || !make_room(1))
        return false;
    put_request(VIRTIO_BLK_T_WRITE_ZEROES, INSTAR_PHASE_PREPARE, 0, segments,
                count * sizeof(*segments));
    return submit();
}
