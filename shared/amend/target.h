/* Pure, either side: the amended header, as it will be. */
#ifndef INSTAR_TARGET_H
#define INSTAR_TARGET_H

#include <stdbool.h>
#include <stdint.h>

#include "qcow2/image.h"

/* A name, or the backing file's format, as it is asked for. */
struct target_text {
    bool given;
    bool changed;         /* it is not what the header has */
    const uint8_t *bytes;
    uint32_t length;      /* 0: there shall be none */
};

/* What an amend may change of the header. */
struct target {
    uint32_t version;
    uint64_t incompatible_features; /* these three are 0 in version 2 */
    uint64_t compatible_features;
    uint64_t autoclear_features;
    uint64_t size; /* of the disk in bytes */
    uint32_t l1_size;
    uint64_t l1_table_offset;
    uint64_t refcount_table_offset;
    uint32_t refcount_table_clusters;
    uint32_t refcount_order; /* 4 in version 2 */
    uint64_t snapshots_offset;
    bool drop_bitmaps; /* there is no bitmaps extension */
    struct target_text backing_file;
    struct target_text backing_format;
    struct target_text data_file;
};

/* Whether a name or the backing file's format changes. */
static inline bool changes_text(const struct target *target)
{
    return target->backing_file.changed || target->backing_format.changed ||
           target->data_file.changed;
}

#endif
