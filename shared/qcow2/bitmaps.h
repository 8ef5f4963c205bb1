/* Pure, either side: the persistent bitmaps of an image. */
#ifndef INSTAR_BITMAPS_H
#define INSTAR_BITMAPS_H

#include <stdbool.h>
#include <stdint.h>

#include "qcow2/image.h"

/* Only for images whose autoclear bit says that the bitmaps extension is consistent. Without it the
 * clusters may have been taken for something else, and stay what they are. */

/* An entry of the bitmap directory. */
struct bitmap {
    uint64_t table_offset;
    uint64_t table_entries;
    uint32_t flags;
    uint32_t type;
    uint32_t granularity_bits;
    const uint8_t *name;  /* in memory until something else is read */
    uint32_t name_offset; /* from the entry's start */
    uint32_t name_size;
    uint64_t size; /* of the entry, padding included */
};

bool has_sound_directory(const struct qcow2_image *image);
/* Refuse, as the bitmaps are not valid; returns false. */
bool refuse_bitmaps(struct qcow2_image *image);
/* Judge the bitmaps and where their tables are; `visit` is called for each. False: refused, or `visit`
 * has said so. */
bool walk_bitmaps(struct qcow2_image *image,
                  bool (*visit)(void *context, const struct bitmap *bitmap), void *context);
/* How many entries a bitmap's table has for a disk of this many bytes. */
uint64_t bitmap_table_entries(const struct qcow2_image *image, const struct bitmap *bitmap,
                              uint64_t disk_size);

/* What keeps qemu from opening an image with the bitmap, which is in the image where it says. */
enum bitmap_fault {
    BITMAP_SOUND,
    BITMAP_FIELDS, /* its type, flags or granularity are none that are known */
    BITMAP_TABLE,  /* its table is longer or shorter than the disk takes */
    BITMAP_NAME,   /* a bitmap before it has the same name */
};

/* The names of the bitmaps so far, as hashes in memory->words, which are nobody else's meanwhile. */
struct bitmap_names {
    uint64_t slots; /* more than there are names */
};

/* Of both, false means refused. */

bool start_names(struct qcow2_image *image, struct bitmap_names *names);
/* Judge a bitmap, while its name is in memory, and note the name. */
bool judge_bitmap(struct qcow2_image *image, const struct bitmap *bitmap,
                  struct bitmap_names *names, enum bitmap_fault *fault);
/* Note the names of all bitmaps in the verdict, as many as fit, for the message. */
void name_bitmaps(struct qcow2_image *image);

#endif
