/* Pure, either side: a qcow2 image as its readers know it; they know nothing of what is done with it. */
#ifndef INSTAR_IMAGE_H
#define INSTAR_IMAGE_H

#include <stdbool.h>
#include <stdint.h>

#include "image/io.h"
#include "image/window.h"

/* The part of the header cluster that headers may use: fields, extensions and relocated names. */
#define HEADER_SIZE 0x10000u
#define TABLE_SIZE 0x10000u
#define BATCH_SIZE 0x100000u
#define SEEN_MAX 8192u
#define READ_ALONG_MAX 2u

/* Memory for the readers; need not be initialised. What is read first of all images is first: a kept
 * machine has it at hand. */
struct qcow2_memory {
    uint8_t header[HEADER_SIZE];
    uint8_t along[READ_ALONG_MAX][SECTOR_SIZE];
    uint8_t other_table[TABLE_SIZE];
    uint8_t table[TABLE_SIZE];
    union {
        uint8_t batch[BATCH_SIZE];
        uint64_t words[BATCH_SIZE / 8];
    };
    uint64_t seen[SEEN_MAX]; /* L2 tables by their numbers */
    uint8_t structures[WINDOW_SIZE];
    uint8_t refcount_table[SMALL_WINDOW_SIZE];
    uint8_t refcounts[WINDOW_SIZE];
};

/* Text in the header cluster: what stands before its first NUL byte, as qemu reads it. */
struct header_text {
    uint32_t offset; /* 0: there is none */
    uint32_t length; /* in bytes */
};

/* The header's fields, with those that version 2 lacks at the values the specification gives them. */
struct qcow2_header {
    uint32_t version;
    uint64_t backing_file_offset;
    uint32_t backing_file_size; /* 0 where there is no backing file, whatever the field says */
    uint32_t cluster_bits;
    uint64_t size;
    uint32_t crypt_method;
    uint32_t l1_size;
    uint64_t l1_table_offset;
    uint64_t refcount_table_offset;
    uint32_t refcount_table_clusters;
    uint32_t nb_snapshots;
    uint64_t snapshots_offset;
    uint64_t incompatible_features;
    uint64_t compatible_features;
    uint64_t autoclear_features;
    uint32_t refcount_order;
    uint32_t header_length;
    uint32_t compression_type;

    uint32_t cluster_size;
    uint32_t
        extensions_limit;    /* no extension reaches beyond it: the backing file name, or the end */
    uint32_t extensions_end; /* after the end marker, or extensions_limit if there is none */
    struct header_text backing_format; /* of each kind the last one counts */
    struct header_text data_file;
    bool has_bitmaps;        /* a bitmaps extension, consistent or not */
    uint32_t nb_bitmaps;     /* these three are set for a consistent one only */
    uint64_t bitmap_directory_offset;
    uint64_t bitmap_directory_size; /* in bytes */
    uint64_t crypto_offset;         /* of the LUKS header, if there is one */
    uint64_t crypto_length;         /* in bytes, as far as it is in the image */
    uint64_t crypto_size;           /* in bytes, as the extension has it */
};

struct qcow2_image {
    struct image file;
    struct qcow2_memory *memory;
    struct qcow2_header header;
    uint32_t header_loaded; /* bytes of memory->header that have been read */
    uint64_t along[READ_ALONG_MAX]; /* sectors to be read with the header; 0: none */
    bool may_be_dirty;      /* that is no reason to refuse */
    bool header_alone;      /* all L2 tables say so: nothing else is in the header's cluster */
    bool gets_backing_file; /* which zero clusters have to hide as they hide the present one */
    bool snapshots_checked;
    uint64_t snapshots_size; /* of the snapshot table in bytes */
    uint64_t l1_entries;     /* of all L1 tables together */
    struct window
        structures; /* over what is read from start to end: snapshot table, bitmap directory */
};

/* Start to read an image; no more work is done than takes as long as reading work_max bytes. */
void open_qcow2(struct qcow2_image *image, struct qcow2_memory *memory, const struct image_io *io,
                struct verdict *verdict, uint64_t work_max);

/* The sector at `offset`, if it was read with the header; else null. */
const uint8_t *find_along(const struct qcow2_image *image, uint64_t offset);
/* Have the sector at `offset` as it is, perhaps without a read. False: refused. */
bool read_sector(struct qcow2_image *image, uint64_t offset, const uint8_t **sector);

/* Whether [offset, offset + length) lies after the header cluster and inside the image, whose last
 * cluster counts as whole: qemu leaves it short. */
bool inside_image(const struct qcow2_image *image, uint64_t offset, uint64_t length);
/* The same for a cluster, which must be aligned. */
bool is_cluster(const struct qcow2_image *image, uint64_t offset);

/* The cluster that this place of the image is in. */
static inline uint64_t cluster_of(const struct qcow2_image *image, uint64_t place)
{
    return place & ~(uint64_t)(image->header.cluster_size - 1);
}

static inline bool has_backing_file(const struct qcow2_image *image)
{
    return image->header.backing_file_size != 0 || image->gets_backing_file;
}

static inline bool is_encrypted(const struct qcow2_image *image)
{
    return image->header.crypt_method != 0;
}

#endif
