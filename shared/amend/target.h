/* Pure, either side: the amended header, as it will be. */
#ifndef INSTAR_TARGET_H
#define INSTAR_TARGET_H

#include <stdbool.h>
#include <stdint.h>

#include "qcow2/image.h"

/* The fields that an amend may change, and one extension that it may drop. */
struct target {
    uint32_t version;
    uint64_t incompatible_features; /* these three are 0 in version 2 */
    uint64_t compatible_features;
    uint64_t autoclear_features;
    uint64_t refcount_table_offset;
    uint32_t refcount_table_clusters;
    uint64_t snapshots_offset;
    bool drop_bitmaps; /* there is no bitmaps extension */
};

#endif
