/* Pure, either side: parses the header's fields and judges each; the untrusted image starts here. */
#include "qcow2/header.h"

#include <string.h>

#include "bits.h"
#include "qcow2/bytes.h"
#include "qcow2/geometry.h"
#include "qcow2/qcow2.h"

#define FIRST_READ ((uint32_t)INSTAR_AHEAD_HEAD_SIZE)

static void parse_fields(struct qcow2_header *h, const uint8_t *raw)
{
    h->backing_file_offset = load_be64(raw + QCOW2_OFFSET_BACKING_FILE_OFFSET);
    /* "Header": an offset of 0 means that there is no backing file. */
    h->backing_file_size =
        h->backing_file_offset ? load_be32(raw + QCOW2_OFFSET_BACKING_FILE_SIZE) : 0;
    h->cluster_bits = load_be32(raw + QCOW2_OFFSET_CLUSTER_BITS);
    h->size = load_be64(raw + QCOW2_OFFSET_SIZE);
    h->crypt_method = load_be32(raw + QCOW2_OFFSET_CRYPT_METHOD);
    h->l1_size = load_be32(raw + QCOW2_OFFSET_L1_SIZE);
    h->l1_table_offset = load_be64(raw + QCOW2_OFFSET_L1_TABLE_OFFSET);
    h->refcount_table_offset = load_be64(raw + QCOW2_OFFSET_REFCOUNT_TABLE_OFFSET);
    h->refcount_table_clusters = load_be32(raw + QCOW2_OFFSET_REFCOUNT_TABLE_CLUSTERS);
    h->nb_snapshots = load_be32(raw + QCOW2_OFFSET_NB_SNAPSHOTS);
    h->snapshots_offset = load_be64(raw + QCOW2_OFFSET_SNAPSHOTS_OFFSET);
    h->incompatible_features = h->compatible_features = h->autoclear_features = 0;
    h->refcount_order = QCOW2_REFCOUNT_ORDER_DEFAULT;
    h->header_length = QCOW2_V2_HEADER_LENGTH;
    h->compression_type = QCOW2_COMPRESSION_ZLIB;
    h->has_bitmaps = false;
    h->backing_format = h->data_file = (struct header_text){0, 0};
    if (h->version < 3)
        return;
    h->incompatible_features = load_be64(raw + QCOW2_OFFSET_INCOMPATIBLE_FEATURES);
    h->compatible_features = load_be64(raw + QCOW2_OFFSET_COMPATIBLE_FEATURES);
    h->autoclear_features = load_be64(raw + QCOW2_OFFSET_AUTOCLEAR_FEATURES);
    h->refcount_order = load_be32(raw + QCOW2_OFFSET_REFCOUNT_ORDER);
    h->header_length = load_be32(raw + QCOW2_OFFSET_HEADER_LENGTH);
    if (h->header_length > QCOW2_OFFSET_COMPRESSION_TYPE)
        h->compression_type = raw[QCOW2_OFFSET_COMPRESSION_TYPE];
}

/* Without a size of clusters, nothing can be said of the other fields. */
static bool check_cluster_bits(struct qcow2_image *image)
{
    struct qcow2_header *h = &image->header;
    if (h->cluster_bits < QCOW2_CLUSTER_BITS_MIN || h->cluster_bits > QCOW2_CLUSTER_BITS_MAX)
        return refuse(image->file.verdict, REFUSAL_CLUSTER_BITS, AMEND_ERROR_PARSE_FAILED,
                      h->cluster_bits, 0, 0);
    h->cluster_size = UINT32_C(1) << h->cluster_bits;
    return true;
}

/* The geometry that every later check depends on. */
static bool check_geometry(struct qcow2_image *image)
{
    struct qcow2_header *h = &image->header;
    bool good = true;
    if (h->version == 3 &&
        (h->header_length < QCOW2_V3_HEADER_LENGTH_MIN || h->header_length % 8 != 0 ||
         h->header_length > h->cluster_size || h->header_length > HEADER_SIZE)) {
        refuse(image->file.verdict, REFUSAL_HEADER_LENGTH, AMEND_ERROR_PARSE_FAILED,
               h->header_length, 0, 0);
        good = false;
    }
    if (h->backing_file_offset &&
        (h->backing_file_offset < h->header_length || h->backing_file_offset > h->cluster_size ||
         h->backing_file_size > QCOW2_BACKING_FILE_SIZE_MAX ||
         h->backing_file_size > h->cluster_size - h->backing_file_offset)) {
        refuse(image->file.verdict, REFUSAL_BACKING_FILE, AMEND_ERROR_PARSE_FAILED,
               h->backing_file_offset, h->backing_file_size, 0);
        good = false;
    }
    if (h->size > INT64_MAX) {
        refuse(image->file.verdict, REFUSAL_VIRTUAL_SIZE, AMEND_ERROR_PARSE_FAILED, h->size, 0, 0);
        good = false;
    }
    return good;
}

static void check_features(struct qcow2_image *image)
{
    const struct qcow2_header *h = &image->header;
    uint64_t bits = h->incompatible_features;
    if (bits & ~QCOW2_INCOMPATIBLE_KNOWN)
        refuse(image->file.verdict, REFUSAL_UNKNOWN_INCOMPATIBLE, AMEND_ERROR_UNSUPPORTED_FEATURE,
               bits & ~QCOW2_INCOMPATIBLE_KNOWN, 0, 0);
    if (bits & QCOW2_INCOMPATIBLE_DIRTY && !image->may_be_dirty)
        refuse(image->file.verdict, REFUSAL_DIRTY, AMEND_ERROR_DIRTY, 0, 0, 0);
    if (bits & QCOW2_INCOMPATIBLE_CORRUPT)
        refuse(image->file.verdict, REFUSAL_CORRUPT, AMEND_ERROR_DIRTY, 0, 0, 0);
    /* "Header", compression_type: zlib if and only if the incompatible bit is clear. */
    bool other = h->compression_type != QCOW2_COMPRESSION_ZLIB;
    if (h->compression_type > QCOW2_COMPRESSION_ZSTD ||
        other != !!(bits & QCOW2_INCOMPATIBLE_COMPRESSION))
        refuse(image->file.verdict, REFUSAL_COMPRESSION_TYPE, AMEND_ERROR_PARSE_FAILED,
               h->compression_type, !!(bits & QCOW2_INCOMPATIBLE_COMPRESSION), 0);
    if ((bits & QCOW2_INCOMPATIBLE_EXTENDED_L2) &&
        h->cluster_bits < QCOW2_EXTENDED_L2_CLUSTER_BITS_MIN)
        refuse(image->file.verdict, REFUSAL_SUBCLUSTERS, AMEND_ERROR_PARSE_FAILED, h->cluster_bits,
               0, 0);
    if ((h->autoclear_features & QCOW2_AUTOCLEAR_DATA_FILE_RAW) &&
        !(bits & QCOW2_INCOMPATIBLE_DATA_FILE))
        refuse(image->file.verdict, REFUSAL_RAW_WITHOUT_DATA_FILE, AMEND_ERROR_PARSE_FAILED, 0, 0,
               0);
    if (h->crypt_method > QCOW2_CRYPT_LUKS)
        refuse(image->file.verdict, REFUSAL_CRYPT_METHOD, AMEND_ERROR_UNSUPPORTED_FEATURE,
               h->crypt_method, 0, 0);
}

static void check_tables(struct qcow2_image *image)
{
    const struct qcow2_header *h = &image->header;
    uint64_t l1_bytes = (uint64_t)h->l1_size * QCOW2_TABLE_ENTRY_SIZE;
    uint64_t refcount_bytes = (uint64_t)h->refcount_table_clusters << h->cluster_bits;
    if (refcount_bytes == 0 || refcount_bytes > QCOW2_REFCOUNT_TABLE_SIZE_MAX ||
        h->refcount_table_offset % h->cluster_size != 0 ||
        !inside_image(image, h->refcount_table_offset, refcount_bytes))
        refuse(image->file.verdict, REFUSAL_REFCOUNT_TABLE, AMEND_ERROR_PARSE_FAILED,
               h->refcount_table_offset, h->refcount_table_clusters, image->file.io->size);
    if (h->refcount_order > QCOW2_REFCOUNT_ORDER_MAX)
        refuse(image->file.verdict, REFUSAL_REFCOUNT_ORDER, AMEND_ERROR_REFCOUNT_WIDTH,
               h->refcount_order, 0, 0);
    if (l1_bytes > QCOW2_L1_SIZE_MAX || h->l1_table_offset % h->cluster_size != 0 ||
        h->l1_table_offset > INT64_MAX ||
        (l1_bytes && !inside_image(image, h->l1_table_offset, l1_bytes)))
        refuse(image->file.verdict, REFUSAL_L1_TABLE, AMEND_ERROR_PARSE_FAILED, h->l1_table_offset,
               h->l1_size, image->file.io->size);
    if (h->l1_size < l1_entries_for(h, h->size))
        refuse(image->file.verdict, REFUSAL_L1_TOO_SMALL, AMEND_ERROR_PARSE_FAILED, h->l1_size,
               l1_entries_for(h, h->size), 0);
    if (h->nb_snapshots > QCOW2_SNAPSHOTS_MAX || h->snapshots_offset % h->cluster_size != 0 ||
        h->snapshots_offset > INT64_MAX ||
        (h->nb_snapshots && !inside_image(image, h->snapshots_offset,
                                          (uint64_t)h->nb_snapshots * QCOW2_SNAPSHOT_HEADER_SIZE)))
        refuse(image->file.verdict, REFUSAL_SNAPSHOT_TABLE, AMEND_ERROR_PARSE_FAILED,
               h->snapshots_offset, h->nb_snapshots, 0);
}

bool load_header(struct qcow2_image *image, uint64_t end)
{
    if (end <= image->header_loaded)
        return true;
    if (end > HEADER_SIZE)
        return refuse(image->file.verdict, REFUSAL_HEADER_TOO_LARGE, AMEND_ERROR_SCRATCH_TOO_SMALL,
                      end, HEADER_SIZE, 0);
    uint8_t *rest = image->memory->header + image->header_loaded;
    if (!read_image(&image->file, INSTAR_PHASE_PREPARE, image->header_loaded, rest,
                    HEADER_SIZE - image->header_loaded))
        return false;
    image->header_loaded = HEADER_SIZE;
    return true;
}

/* Read the start of the header, and in the same request what is to be read along. */
static bool read_start(struct qcow2_image *image)
{
    struct qcow2_memory *memory = image->memory;
    uint64_t end = image->file.end;
    struct io_range ranges[1 + READ_ALONG_MAX] = {
        {0, end < FIRST_READ ? end : FIRST_READ, memory->header},
    };
    uint32_t count = end ? 1 : 0;
    memset(memory->header, 0, FIRST_READ);
    for (uint32_t i = 0; i < READ_ALONG_MAX; i++) {
        if (image->along[i] % SECTOR_SIZE || image->along[i] >= end)
            image->along[i] = 0;
        if (image->along[i])
            ranges[count++] = (struct io_range){image->along[i], SECTOR_SIZE, memory->along[i]};
    }
    image->header_loaded = FIRST_READ;
    return read_ranges(&image->file, INSTAR_PHASE_PREPARE, ranges, count);
}

bool parse_header(struct qcow2_image *image)
{
    struct qcow2_header *h = &image->header;
    uint8_t *raw = image->memory->header;
    if (!read_start(image))
        return false;
    if (load_be32(raw + QCOW2_OFFSET_MAGIC) != QCOW2_MAGIC)
        return refuse(image->file.verdict, REFUSAL_BAD_MAGIC, AMEND_ERROR_UNSUPPORTED_FORMAT, 0, 0,
                      0);
    h->version = load_be32(raw + QCOW2_OFFSET_VERSION);
    if (h->version != 2 && h->version != 3)
        return refuse(image->file.verdict, REFUSAL_BAD_VERSION, AMEND_ERROR_UNSUPPORTED_FORMAT,
                      h->version, 0, 0);
    uint32_t shortest = h->version == 3 ? QCOW2_V3_HEADER_LENGTH_MIN : QCOW2_V2_HEADER_LENGTH;
    if (image->file.io->size < shortest)
        return refuse(image->file.verdict, REFUSAL_TRUNCATED_HEADER, AMEND_ERROR_PARSE_FAILED,
                      image->file.io->size, shortest, 0);
    parse_fields(h, raw);
    if (!check_cluster_bits(image))
        return false;
    bool good = check_geometry(image);
    check_features(image);
    if (!good)
        return false;
    check_tables(image);
    return true;
}
