/* Pure, either side: whether an image's refcounts and flags are what its tables make of them.
 *
 * All references are counted, a window of clusters at a time, with one walk of all tables for each
 * (QEMU, "qemu-img check"). Nothing is staged.
 */
#ifndef INSTAR_CHECK_H
#define INSTAR_CHECK_H

#include "image/io.h"
#include "inspect/counts.h"
#include "inspect/sink.h"
#include "qcow2/image.h"
#include "qcow2/refcounts.h"
#include "verdict.h"

/* Need not be initialised. */
struct check_workspace {
    struct qcow2_memory image;
    struct record_list records;
};

struct checking {
    struct qcow2_image image;
    struct refcounts refcounts;
    struct check_workspace *workspace;
    struct CheckResult *result;
    struct counts counts;
    uint64_t file_clusters; /* the last one counts as whole */
    uint64_t clusters;      /* one more if it is referred to */
    uint64_t highest;       /* the last cluster in use; 0 if there is none */
    bool once;              /* the first window: findings that are of no window are told */
    uint32_t queued;        /* L2 tables in memory->batch to come */
    uint64_t queue_bytes;
    struct io_range queue[IO_RANGES_MAX];
    bool starts[IO_RANGES_MAX]; /* whether it is the first part of a table */
    uint64_t next;              /* where the next cluster is if the disk is not fragmented */
};

/* Check the image; `size` bytes of memory follow the workspace, for counts. What keeps it from being
 * checked is in `verdict`, with its being dirty or corrupt, which does not. */
void check_image(const struct InspectConfig *config, const struct image_io *io,
                 struct check_workspace *workspace, uint64_t size, const struct sink *sink,
                 struct CheckResult *result, struct verdict *verdict);

/* In the place of a refcount, which is cut to 2, one that cannot be read. */
#define REFCOUNT_UNKNOWN 3u

/* Note a finding; what it counts as is the kind's affair. */
void find(struct checking *checking, uint32_t kind, uint64_t detail0, uint64_t detail1,
          uint64_t detail2);
/* Count a reference to [offset, offset + size), which is for `use`. False: refused. */
bool count_region(struct checking *checking, uint64_t offset, uint64_t size, uint32_t use);
/* Count what an L1 table names; of the active one, take the allocation too. False: refused. */
bool count_table(struct checking *checking, uint64_t offset, uint64_t entries, bool active);
/* Compare the copied flags of the active tables with refcounts, after compare_counts(). False: refused. */
bool check_flags(struct checking *checking);
/* Count what the bitmaps name. False: refused. */
bool count_bitmaps(struct checking *checking);

#endif
