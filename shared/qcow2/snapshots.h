/* Pure, either side: the snapshot table of an image. */
#ifndef INSTAR_SNAPSHOTS_H
#define INSTAR_SNAPSHOTS_H

#include <stdbool.h>
#include <stdint.h>

#include "qcow2/image.h"

/* An entry of the snapshot table ("Snapshots"). */
struct snapshot {
    uint64_t offset; /* of the entry in the image */
    uint64_t l1_table_offset;
    uint32_t l1_size;
    uint32_t extra_data_size;
    uint64_t vm_state_size;
    uint64_t disk_size;
    uint64_t vm_clock_nsec;
    uint64_t icount; /* 2^64 - 1 if there is none */
    uint32_t date_sec;
    uint32_t date_nsec;
    uint32_t id_size;   /* in bytes */
    uint32_t text_size; /* of id and name in bytes */
    uint32_t size;      /* of the entry in bytes, padding included */
};

/* Judge the snapshot table; `visit`, or null, is called for each entry, with its number from 1 on. */
void check_snapshots(struct qcow2_image *image,
                     void (*visit)(void *context, const struct snapshot *snapshot, uint32_t number),
                     void *context);
/* Read the entry at byte `at` of the snapshot table. False: refused. */
bool read_snapshot(struct qcow2_image *image, uint64_t at, struct snapshot *snapshot);
/* Whether the L1 table of snapshot `number`, from 1, may be followed. False: refused. */
bool check_l1_table(struct qcow2_image *image, const struct snapshot *snapshot, uint32_t number);

#endif
