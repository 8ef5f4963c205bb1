/* Pure, either side: the state of a check: what has been counted, in the window at hand, and found. */
#ifndef INSTAR_CHECKING_H
#define INSTAR_CHECKING_H

#include <stdbool.h>
#include <stdint.h>

#include "image/io.h"
#include "inspect/counts.h"
#include "inspect/sink.h"
#include "qcow2/image.h"
#include "qcow2/refcounts.h"

/* Need not be initialised. */
struct check_workspace {
    struct qcow2_memory image;
    struct record_list records;
};

struct checking {
    struct qcow2_image image;
    struct refcounts refcounts;
    struct record_list *records; /* findings */
    struct CheckResult *result;
    struct counts counts;
    uint64_t file_clusters; /* the last one counts as whole */
    uint64_t clusters;      /* one more if it is referred to */
    uint64_t highest;       /* the last cluster in use; 0 if there is none */
    bool once;              /* the first window: findings that are of no window are told */
    uint64_t walked;        /* L1 entries, */
    uint64_t to_walk;       /* of this many in all windows; 0: nobody wants to know */
    bool doubted;           /* a flag of the active tables may be wrong */
    uint64_t next;              /* where the next cluster is if the disk is not fragmented */
};

/* In the place of a refcount, which is cut to 2, one that cannot be read. */
#define REFCOUNT_UNKNOWN 3u
/* Costs in bytes read: of counting a cluster, of coming to it, and of noting a finding; of reading and
 * looking at 8 bytes of an L2 table; and of coming to a part of an L1 table, which an image can have 65536
 * of that take no more than a request each. */
#define COUNT_WORK 16u
#define REGION_WORK 128u
#define FINDING_WORK 512u
#define L2_WORK 20u
#define L1_WORK 0xa0000u

/* Note a finding; what it counts as is the kind's affair. */
void find(struct checking *checking, uint32_t kind, uint64_t detail0, uint64_t detail1,
          uint64_t detail2);
/* Note what an entry of the active tables says of the cluster at `offset`, to be compared with its
 * refcount. */
void note_flag(struct checking *checking, uint64_t offset, bool copied);
/* Count a reference to [offset, offset + size), which is for `use`. False: refused. */
bool count_region(struct checking *checking, uint64_t offset, uint64_t size, uint32_t use);

#endif
