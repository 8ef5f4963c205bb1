/* Guest, untrusted: what all operations share: the image, by the executor's block requests. */
#ifndef INSTAR_BLOCKS_H
#define INSTAR_BLOCKS_H

#include "call_table.h"
#include "image/io.h"

static const struct call_table *const calls = (const struct call_table *)INSTAR_CALL_TABLE_ADDR;

/* Whether the executor is one that this operation can call. */
bool is_executor_known(void);
/* The image's bytes, as image_io.read and image_io.write have it; `context` is not used. */
bool read_blocks(void *context, uint32_t phase, const struct io_range *ranges, uint32_t count);
bool write_blocks(void *context, uint32_t phase, const struct io_range *ranges, uint32_t count);
bool scatter_sectors(void *context, uint32_t phase, const struct io_sectors *sectors, uint32_t count,
                     bool later);
bool zero_segments(void *context, const struct io_segment *segments, uint32_t count);
/* Send the progress, as image_io.progress has it. */
void send_progress(void *context, uint64_t done, uint64_t total);

#endif
