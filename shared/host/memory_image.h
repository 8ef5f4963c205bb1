/* Test side: an image in memory for the library, and what is staged for it. */
#ifndef INSTAR_MEMORY_IMAGE_H
#define INSTAR_MEMORY_IMAGE_H

#include "host/library.h"
#include "image/io.h"
#include "verdict.h"

struct memory_image {
    const uint8_t *bytes;
    uint64_t size;
    uint64_t limit; /* no range may reach beyond it */
    uint32_t fail_call;
    uint32_t calls;
    /* What was put off: it is staged from where it lies, and that as late as it may be. */
    const struct io_sectors *late;
    uint32_t late_phase, late_count;
    struct host_outcome *outcome;
};

/* Start a run on the image, which may grow; what an earlier one in this thread staged is forgotten. */
void open_memory(struct memory_image *memory, const uint8_t *image, uint64_t size,
                 uint64_t max_growth, struct host_outcome *outcome);
/* The callbacks, which note in the outcome when one of their rules is broken. */
struct image_io memory_io(struct memory_image *memory, bool progress);
/* Put into the outcome what has been staged, and what was refused. */
void tell_outcome(struct host_outcome *outcome, const struct verdict *verdict);

#endif
