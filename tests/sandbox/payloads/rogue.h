/* Test side: what rogue payloads share. Each is an operation image in the place of guest/amend. */
#ifndef ROGUE_H
#define ROGUE_H

#include <string.h>

#include "call_table.h"

/* What every image needs of guest/common: included, which is half the compiler's runs. */
#include "memory.c"
#include "note.c"

#define SHARED __attribute__((unused)) static inline

void operation_start(void);

static const struct call_table *const calls __attribute__((unused)) =
    (const struct call_table *)INSTAR_CALL_TABLE_ADDR;

/* An operation that is one function, rogue, in assembler: so the place of its fault is known. */
#define ROGUE(instructions)                                                                        \
    void rogue(void);                                                                              \
    __asm__(".pushsection .text.rogue, \"ax\", @progbits\n"                                        \
            ".type rogue, @function\n"                                                             \
            "rogue:\n" instructions "\n"                                                           \
            "ret\n"                                                                                \
            ".size rogue, . - rogue\n"                                                             \
            ".popsection\n");                                                                      \
    void operation_start(void)                                                                     \
    {                                                                                              \
        rogue();                                                                                   \
    }

/* The same with an address in RAX; the instructions follow at rogue+0xa. */
#define ROGUE_AT(address, instructions) ROGUE("movabsq $" #address ", %rax\n" instructions)

SHARED void out8(uint16_t port, uint8_t value)
{
    __asm__ volatile("outb %0, %1" : : "a"(value), "Nd"(port) : "memory");
}

SHARED void store32(uint8_t *to, uint32_t value)
{
    for (int i = 0; i < 4; i++)
        to[i] = (uint8_t)(value >> (24 - 8 * i));
}

SHARED void store64(uint8_t *to, uint64_t value)
{
    store32(to, (uint32_t)(value >> 32));
    store32(to + 4, (uint32_t)value);
}

/* A sector of the image, in the workspace. */
SHARED uint8_t *read_sector(uint64_t offset)
{
    struct block_range range = {offset, 512, calls->workspace};
    calls->read_blocks(INSTAR_PHASE_PREPARE, &range, 1);
    return calls->workspace;
}

/* The same by a request of its own, which also has the host see what was written. */
SHARED uint8_t *ask_for_sector(uint64_t offset)
{
    struct block_range range = {offset, 512, calls->workspace};
    calls->read_blocks(INSTAR_PHASE_COUNT, &range, 1);
    return calls->workspace;
}

SHARED uint8_t *read_header(void)
{
    return read_sector(0);
}

/* Stage one sector, the workspace's first. */
SHARED void write_in(uint32_t phase, uint64_t offset)
{
    struct block_range range = {offset, 512, calls->workspace};
    calls->write_blocks(phase, &range, 1);
}

SHARED void write_sector(uint64_t offset)
{
    write_in(INSTAR_PHASE_SWITCH, offset);
}

/* Turn a header of version 3 without lazy refcounts into what lazy_refcounts=on asks for. */
SHARED uint8_t *toggled_header(void)
{
    uint8_t *header = read_header();
    header[87] |= 1;
    return header;
}

/* Turn a header of version 2 with few extensions into what compat=1.1 asks for. */
SHARED uint8_t *upgraded_header(void)
{
    uint8_t *header = read_header();
    memmove(header + 112, header + 72, 512 - 112);
    memset(header + 72, 0, 40);
    header[7] = 3;
    header[15] = (uint8_t)(header[15] + 40);
    header[99] = 4;
    header[103] = 112;
    return header;
}

/* Turn a header into what a repair leaves where the books are right: the image is no longer dirty. */
SHARED uint8_t *repaired_header(void)
{
    uint8_t *header = read_header();
    header[79] &= 0xfe;
    return header;
}

/* What an honest operation says of the first, and with `lazy` 0 of the others. */
SHARED struct AmendResult honest_result(uint32_t lazy)
{
    return (struct AmendResult){
        .magic = AMEND_RESULT_MAGIC,
        .target_format = AMEND_FORMAT_QCOW2,
        .action = AMEND_ACTION_AMENDED,
        .resulting_version = 3,
        .resulting_lazy_refcounts = lazy,
        .atomic = 1,
        .resulting_compatible_features = lazy,
    };
}

/* An option record of a number or flag. */
struct number_record {
    struct OptionRecord head;
    uint64_t value;
};

#define NUMBER_RECORD(key, kind, value) {{key, kind, sizeof(uint64_t)}, value}

SHARED void send_records(const void *records, uint32_t size)
{
    calls->send_frame(FRAME_OPTIONS, records, size, false);
}

/* The options as the result has them; returns how many bytes of them were sent. */
SHARED uint32_t send_options(const struct AmendResult *result)
{
    const struct AmendConfig *asked = (const struct AmendConfig *)OPERATION_CONFIG_ADDR;
    const struct number_record records[] = {
        NUMBER_RECORD(OPTION_COMPAT, OPTION_KIND_NUMBER, result->resulting_version),
        NUMBER_RECORD(OPTION_LAZY_REFCOUNTS, OPTION_KIND_FLAG, result->resulting_lazy_refcounts),
        NUMBER_RECORD(OPTION_DATA_FILE_RAW, OPTION_KIND_FLAG,
                      result->resulting_autoclear_features >> 1 & 1),
        NUMBER_RECORD(OPTION_REFCOUNT_BITS, OPTION_KIND_NUMBER, 16),
        NUMBER_RECORD(OPTION_SIZE, OPTION_KIND_NUMBER, asked->virtual_size),
    };
    send_records(records, sizeof(records));
    return sizeof(records);
}

SHARED void send_result(struct AmendResult result)
{
    if (result.error == AMEND_OK && result.refusal_count == 0)
        send_options(&result);
    calls->send_frame(FRAME_RESULT, &result, sizeof(result), true);
}

SHARED void write_toggle(void)
{
    toggled_header();
    write_sector(0);
}

/* Stage the workspace's first sector as the header, and call that a repair. */
SHARED void send_repair(void)
{
    struct AmendResult result = honest_result(0);
    result.resulting_autoclear_features = calls->workspace[95];
    write_sector(0);
    send_result(result);
}

/* A descriptor, and the avail ring, of either queue. */
struct descriptor {
    uint64_t address;
    uint32_t length;
    uint16_t flags;
    uint16_t next;
};

struct available {
    uint16_t flags;
    uint16_t index;
    uint16_t ring[];
};

struct block_header {
    uint32_t type;
    uint32_t reserved;
    uint64_t sector;
};

static struct descriptor *const block_descriptors __attribute__((unused)) =
    (struct descriptor *)INSTAR_BLOCK_DESC_ADDR;

/* Make the chain that begins with descriptor 0 available to the device, and say so. */
SHARED void submit_block(void)
{
    struct available *available = (struct available *)INSTAR_BLOCK_AVAIL_ADDR;
    available->ring[available->index % INSTAR_BLOCK_QUEUE_SIZE] = 0;
    available->index++;
    out8(INSTAR_PORT_NOTIFY, INSTAR_BLOCK_QUEUE);
}

/* One block request without a data check of any kind; its parts lie behind the workspace's start. */
SHARED void request(uint32_t type, uint64_t sector, uint64_t address, uint32_t length,
                    uint16_t flags)
{
    struct block_header *header = (struct block_header *)(void *)(calls->workspace + 4096);
    *header = (struct block_header){type, 0, sector};
    block_descriptors[0] = (struct descriptor){(uintptr_t)header, sizeof(*header), 1, 1};
    block_descriptors[1] = (struct descriptor){address, length, (uint16_t)(flags | 1), 2};
    block_descriptors[2] = (struct descriptor){(uintptr_t)calls->workspace + 8192, 1, 2, 0};
    submit_block();
}

/* Send bytes as they are through the transmit queue. */
SHARED void transmit(const void *bytes, uint32_t length)
{
    struct descriptor *descriptor = (struct descriptor *)INSTAR_TRANSMIT_DESC_ADDR;
    struct available *available = (struct available *)INSTAR_TRANSMIT_AVAIL_ADDR;
    memcpy(calls->workspace, bytes, length);
    *descriptor = (struct descriptor){(uintptr_t)calls->workspace, length, 0, 0};
    available->ring[available->index % INSTAR_TRANSMIT_QUEUE_SIZE] = 0;
    available->index++;
    out8(INSTAR_PORT_NOTIFY, INSTAR_TRANSMIT_QUEUE);
}

#endif
