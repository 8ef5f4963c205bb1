/* Pure, either side: an image as its caller's callbacks show it, and reads of it. */
#ifndef INSTAR_IO_H
#define INSTAR_IO_H

#include <stdbool.h>
#include <stdint.h>

#include "image/budget.h"
#include "verdict.h"

#define SECTOR_SIZE 512u /* a disk's sector; qcow2 counts in the same */
#define IO_RANGES_MAX 40u
#define IO_SECTORS_MAX 126u

/* Bytes of the image: offset and length are multiples of 512. */
struct io_range {
    uint64_t offset;
    uint64_t length;
    uint8_t *buffer;
};

/* Sectors of 512 bytes to be zeroed. */
struct io_segment {
    uint64_t sector;
    uint32_t num_sectors;
    uint32_t flags; /* 0 */
};

/* Sectors from anywhere in the image, to be written with one request; 64 KiB, but for 16 bytes. */
struct io_sectors {
    uint64_t numbers[IO_SECTORS_MAX]; /* in units of 512 bytes */
    uint8_t data[IO_SECTORS_MAX * SECTOR_SIZE];
};

/* Of all callbacks false means an I/O error. No range reaches beyond the end of the image and what it
 * may grow by, rounded up to 512; what neither the image nor a write has reads as zeros. */
struct image_io {
    void *context;
    uint64_t size; /* of the image file in bytes, any number */
    /* Fill all ranges with the image as it is once all phases below `phase` are written. */
    bool (*read)(void *context, uint32_t phase, const struct io_range *ranges, uint32_t count);
    /* Stage all ranges for `phase` (INSTAR_PHASE_*); the last write of a byte in a phase counts. */
    bool (*write)(void *context, uint32_t phase, const struct io_range *ranges, uint32_t count);
    /* The same for the first `count` sectors. With `later` this may be put off until the next read, which
     * sees them: so long they stay where they are. Without, all that was put off is done too. */
    bool (*scatter)(void *context, uint32_t phase, const struct io_sectors *sectors, uint32_t count,
                    bool later);
    /* Stage zeros for INSTAR_PHASE_PREPARE; reads do not see them. */
    bool (*zero)(void *context, const struct io_segment *segments, uint32_t count);
    /* Tell of the progress; null where nobody wants to know. */
    void (*progress)(void *context, uint64_t done, uint64_t total);
};

/* One image, and what may be and has been done with it. */
struct image {
    const struct image_io *io;
    struct verdict *verdict;
    struct budget budget;
    uint64_t end;           /* in bytes, with all that it has grown by so far; a multiple of 512 */
    uint64_t staged;        /* bytes of all writes, with those that were written again */
    uint64_t max_growth;    /* bytes by which it may grow */
    uint64_t growth_needed; /* and may have to, at most, for all that is asked for */
    bool put_off;           /* what was scattered last may still be read from its memory */
    bool read_only;         /* nothing is staged, and reads go on after a refusal */
    bool fixed_size;        /* a block device: max_growth is 0, and cannot be more */
};

/* Of all these, false or null means refused: an I/O error, or out of bounds. */

struct image open_image(const struct image_io *io, struct verdict *verdict, uint64_t work_max);

/* Whether the image may become this large, in bytes. */
bool may_extend_to(const struct image *image, uint64_t end);
/* Count the bytes up to `end` as part of the image. False: it may not grow that far. */
bool extend_to(struct image *image, uint64_t end);

/* Read whole sectors as they are before `phase`; after the image's end come zeros. */
bool read_image(struct image *image, uint32_t phase, uint64_t offset, uint8_t *buffer,
                uint32_t length);
bool read_ranges(struct image *image, uint32_t phase, const struct io_range *ranges,
                 uint32_t count);
/* How many bytes the ranges have together. */
uint64_t sum_of_ranges(const struct io_range *ranges, uint32_t count);

void report_progress(const struct image *image, uint64_t done, uint64_t total);

#endif
