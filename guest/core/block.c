/* Guest, untrusted: the driver of the block queue (virtio 1.2, 5.2 "Block Device"). */
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

_Static_assert(CALL_TABLE_RANGES_MAX * 3 <= INSTAR_BLOCK_QUEUE_SIZE, "three descriptors a request");
_Static_assert(CALL_TABLE_RANGES_MAX * sizeof(struct request) <=
                   CORE_TRANSMIT_ADDR - CORE_REQUESTS_ADDR,
               "the requests overlap the transmit buffer");

/* Lay out request `i`: header, data, status. */
static void put_request(uint32_t i, uint32_t type, uint32_t phase, uint64_t sector,
                        const void *data, uint64_t size)
{
    struct request *r = &requests[i];
    uint16_t head = (uint16_t)(3 * i);
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
    avail->ring[(uint16_t)(avail->idx + i) % INSTAR_BLOCK_QUEUE_SIZE] = head;
}

/* Lay out the only request: header, the sectors' numbers, data, status. */
static void put_scatter(uint32_t phase, const uint64_t *sectors, const uint8_t *data,
                        uint32_t count)
{
    put_request(0, INSTAR_BLOCK_SCATTER, phase, 0, sectors, count * sizeof(*sectors));
    desc[3] = desc[2];
    desc[2] = (struct virtq_desc){(uintptr_t)data, count << SECTOR_SHIFT, VIRTQ_DESC_F_NEXT, 3};
}

/* Ring the doorbell for `count` requests; the device is done with all when the OUT returns. */
static bool submit(uint32_t count)
{
    avail->idx = (uint16_t)(avail->idx + count);
    out8(INSTAR_PORT_NOTIFY, INSTAR_BLOCK_QUEUE);
    if (used->idx != avail->idx)
        exit_vm(EXIT_PANIC_QUEUE);
    for (uint32_t i = 0; i < count; i++)
        if (*(volatile uint8_t *)&requests[i].status != VIRTIO_BLK_S_OK)
            return false;
    return true;
}

static bool transfer(uint32_t type, uint32_t phase, const struct block_range *ranges,
                     uint32_t count)
{
    if (count > CALL_TABLE_RANGES_MAX)
        return false;
    for (uint32_t i = 0; i < count; i++)
        put_request(i, type, phase, ranges[i].offset >> SECTOR_SHIFT, ranges[i].buffer,
                    ranges[i].length);
    return submit(count);
}

bool block_read(uint32_t phase, const struct block_range *ranges, uint32_t count)
{
    return transfer(VIRTIO_BLK_T_IN, phase, ranges, count);
}

bool block_write(uint32_t phase, const struct block_range *ranges, uint32_t count)
{
    return transfer(VIRTIO_BLK_T_OUT, phase, ranges, count);
}

bool block_scatter(uint32_t phase, const uint64_t *sectors, const uint8_t *data, uint32_t count)
{
    if (count > INSTAR_BLOCK_REQUEST_MAX >> SECTOR_SHIFT)
        return false;
    put_scatter(phase, sectors, data, count);
    return submit(1);
}

bool block_zero(const struct block_segment *segments, uint32_t count)
{
    if (count > INSTAR_ZEROES_SEGMENTS_MAX)
        return false;
    put_request(0, VIRTIO_BLK_T_WRITE_ZEROES, INSTAR_PHASE_PREPARE, 0, segments,
                count * sizeof(*segments));
    return submit(1);
}
