/* Guest, untrusted: frames messages and sends them through the serial port's transmit queue. */
#include <string.h>

#include "core.h"
#include "virtqueue.h"

static struct virtq_desc *const desc = (struct virtq_desc *)INSTAR_TRANSMIT_DESC_ADDR;
static struct virtq_avail *const avail = (struct virtq_avail *)INSTAR_TRANSMIT_AVAIL_ADDR;
static volatile struct virtq_used *const used = (struct virtq_used *)INSTAR_TRANSMIT_USED_ADDR;
static uint8_t *const buffer = (uint8_t *)CORE_TRANSMIT_ADDR;
static uint32_t waiting; /* bytes of `buffer` */

/* CRC-32 (IEEE 802.3) of bytes that follow those of `crc`, bit by bit: frames are short. */
static uint32_t crc32(uint32_t crc, const uint8_t *bytes, uint32_t length)
{
    crc = ~crc;
    while (length--) {
        crc ^= *bytes++;
        for (int bit = 0; bit < 8; bit++)
            crc = crc >> 1 ^ (crc & 1 ? UINT32_C(0xedb88320) : 0);
    }
    return ~crc;
}

static void push_buffer(void)
{
    desc[0] = (struct virtq_desc){(uintptr_t)buffer, waiting, 0, 0};
    avail->ring[avail->idx % INSTAR_TRANSMIT_QUEUE_SIZE] = 0;
    avail->idx++;
    waiting = 0;
    bool both = has_waiting();
    out8(INSTAR_PORT_NOTIFY, both ? INSTAR_BOTH_QUEUES : INSTAR_TRANSMIT_QUEUE);
    if (used->idx != avail->idx || (both && !end_waiting()))
        exit_vm(EXIT_PANIC_QUEUE);
}

void transmit_frame(uint32_t type, const void *payload, uint32_t length, bool push)
{
    struct FrameHeader header = {.magic = FRAME_MAGIC, .type = type, .length = length};
    uint8_t *frame = buffer + waiting;
    if (length > FRAME_PAYLOAD_MAX || sizeof(header) + length > INSTAR_TRANSMIT_MAX - waiting)
        exit_vm(EXIT_PANIC_TRANSMIT);
    header.crc = crc32(0, (const uint8_t *)&header.type, sizeof(header.type) + sizeof(header.length));
    header.crc = crc32(header.crc, payload, length);
    memcpy(frame, &header, sizeof(header));
    memcpy(frame + sizeof(header), payload, length);
    waiting += (uint32_t)sizeof(header) + length;
    if (push)
        push_buffer();
}
