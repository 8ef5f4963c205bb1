/* Test side: what payloads share that are the honest planner, but for a change in what it writes. */
#ifndef LIAR_H
#define LIAR_H

/* guest/operation/blocks.c, whose writes go through lie(). */
#define write_blocks write_honestly
#include "blocks.c"
#undef write_blocks

#include "amend/workspace.h"
#include "bits.h"
#include "instar_abi.h"
#include "qcow2/bytes.h"

#define LIE __attribute__((unused)) static inline

static const struct AmendConfig *const config = (const struct AmendConfig *)OPERATION_CONFIG_ADDR;

/* Change bytes that are about to be written at `offset`. */
static void lie(uint32_t phase, uint64_t offset, uint8_t *bytes, uint64_t length);

bool write_blocks(void *context, uint32_t phase, const struct io_range *ranges, uint32_t count);

bool write_blocks(void *context, uint32_t phase, const struct io_range *ranges, uint32_t count)
{
    for (uint32_t i = 0; i < count; i++)
        lie(phase, ranges[i].offset, ranges[i].buffer, ranges[i].length);
    return write_honestly(context, phase, ranges, count);
}

/* The place of the cluster with this number after the end of the image. */
LIE uint64_t after_end(uint64_t number)
{
    return round_up(config->image_size, config->cluster_size) + number * config->cluster_size;
}

/* The number of 8 bytes at `place`, if it is among what is written; else null. */
LIE uint8_t *word_at(uint64_t place, uint64_t offset, uint8_t *bytes, uint64_t length)
{
    return place >= offset && place + 8 <= offset + length ? bytes + (place - offset) : 0;
}

/* The image's sector at `offset`, in memory that the planner does not use; null if it cannot be read. */
LIE const uint8_t *read_aside(uint64_t offset)
{
    struct planner_workspace *workspace = (struct planner_workspace *)calls->workspace;
    struct io_range range = {offset, SECTOR_SIZE, (uint8_t *)(workspace + 1)};
    return read_blocks(0, INSTAR_PHASE_PREPARE, &range, 1) ? range.buffer : 0;
}

/* Add to the number at `place` in one phase, wherever that is written. */
LIE void add_at(uint64_t place, uint64_t by, uint64_t offset, uint8_t *bytes, uint64_t length)
{
    uint8_t *word = word_at(place, offset, bytes, length);
    if (word)
        store_be64(word, load_be64(word) + by);
}

#endif
