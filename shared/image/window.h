/* Pure, either side: a part of the image in memory, which moves to what is looked at. */
#ifndef INSTAR_WINDOW_H
#define INSTAR_WINDOW_H

#include <stdbool.h>
#include <stdint.h>

#include "image/io.h"

#define WINDOW_SIZE 0x10000u
#define SMALL_WINDOW_SIZE 0x1000u

/* The image as it is before `phase`; changed sectors are staged when the window moves on. */
struct window {
    uint8_t *data;
    uint32_t size;        /* multiple of 512, up to WINDOW_SIZE */
    uint32_t phase;       /* the view, as in image_io.read */
    uint32_t write_phase; /* where changes belong */
    bool any_order;       /* of what is looked at, none of which crosses a multiple of `size` */
    bool loaded;
    uint64_t offset;                                     /* of the data in the image */
    uint64_t changed[WINDOW_SIZE / SECTOR_SIZE / 64]; /* a bit for each sector */
};

/* Have `length` bytes at `offset` in the window; they stay until the next call. Null: refused. */
uint8_t *look(struct image *image, struct window *window, uint64_t offset, uint32_t length);
bool is_in_window(const struct window *window, uint64_t offset, uint32_t length);
/* Note that bytes within the sector at `offset` of the image, which the window has, are changed. */
void mark_changed(struct window *window, uint64_t offset);
/* Stage what has changed. False: refused. */
bool flush_window(struct image *image, struct window *window);

#endif
