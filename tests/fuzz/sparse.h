/* Test side: a fuzzer's input as a request on a sparse image, and the image as the planner reads it.
 *
 * An input, all numbers little-endian, is an input_head and then chunks, each a chunk_head and its
 * bytes; the last one may be cut short. What no chunk covers reads as zeros; later chunks win. A chunk
 * at REQUEST_OFFSET is no part of the image: it says what else is asked for.
 */
#ifndef INSTAR_FUZZ_SPARSE_H
#define INSTAR_FUZZ_SPARSE_H

#include <stddef.h>

#include "amend/options/options.h"
#include "amend/workspace.h"
#include "image/io.h"
#include "instar_abi.h"
#include "plan/plan.h"
#include "verdict.h"

#define CHUNKS_MAX 32u
#define LATE_CALLS_MAX 4u /* reads after one has failed: the planner gives up soon */
#define STAGED_MAX 512u       /* writes; the one too many fails */
#define STAGED_BYTES (4u << 20) /* of these together */
#define GROWTH (UINT64_C(1) << 20) /* by which the image may grow */

#define LIMITED 0x80u         /* the other bits of fail_read are the work_max, in WORK_UNITs */
#define WORK_UNIT UINT64_C(0x28000)
#define MODE_MISMATCH 0x80u /* the host saw another field than there is; bits 4 to 6 say which */
#define MODE_TWICE 0x01u    /* a refusal is asked for a second time */
#define MODE_LONG 0x7eu     /* these and no other: tables may be long */

/* What is asked for, in the flags of an input; the other bits are AMEND_FLAG_*. */
#define ASK_COMPAT 2u
#define ASK_COMPAT_V3 4u
#define ASK_LAZY 8u
#define ASK_LAZY_ON 16u
#define ASKED (ASK_COMPAT | ASK_COMPAT_V3 | ASK_LAZY | ASK_LAZY_ON)

struct input_head {
    uint8_t flags;
    uint8_t mode;
    uint8_t fail_read; /* the read call with this number, from 1 on, fails; or with LIMITED the work */
    uint8_t spare;
    uint8_t size[8]; /* of the image in bytes, modulo 2^63 */
};

struct chunk_head {
    uint8_t offset[8];
    uint8_t length[2];
};

/* Where OptionRecords follow, as the ABI has them; the input's flags win over them. */
#define REQUEST_OFFSET UINT64_MAX
#define ALLOWED (AMEND_FLAG_DROP_BITMAPS | AMEND_FLAG_SHRINK | AMEND_FLAG_CHANGE_BACKING | AMEND_FLAG_KEYS)
struct request_head {
    uint8_t flags[4];        /* of those in ALLOWED */
    uint8_t backing_size[8];
};

struct chunk {
    uint64_t offset;
    uint64_t length;
    const uint8_t *bytes; /* null: zeros */
};

struct sparse {
    uint64_t size;
    const uint8_t *request; /* a request_head and records; null: there is none */
    uint32_t request_size;
    uint32_t count;
    struct chunk chunks[CHUNKS_MAX + STAGED_MAX];
};

/* What the planner staged, in order. */
struct staged {
    uint32_t count;
    uint32_t bytes;
    uint32_t phases[STAGED_MAX];
    struct chunk writes[STAGED_MAX];
    uint8_t data[STAGED_BYTES];
};

/* One run of the planner: what it may do, and what it did. */
struct reading {
    const struct sparse *image;
    const struct planner_workspace *workspace;
    const struct verdict *verdict;
    struct staged *staged;
    uint64_t max_growth;
    uint32_t fail_read;
    uint64_t budget; /* of what the reads cost; the one that exceeds it fails */
    uint32_t calls, late_calls;
    uint64_t bytes;
    uint64_t cost; /* bytes, those of L1 tables eightfold: they take time */
    uint64_t progress;
    bool may_progress;
    bool failed; /* a read did */
    const struct io_sectors *late; /* these have been put off, and must stay as they are until a read */
    uint32_t late_count;
    bool write_failed;
};

/* What is asked of the planner once, and what came of it. */
struct attempt {
    bool planned;
    struct amend_plan plan;
    struct verdict verdict;
    struct reading reading;
};

static inline uint64_t load_le(const uint8_t *p, unsigned size)
{
    uint64_t value = 0;
    while (size--)
        value = value << 8 | p[size];
    return value;
}

/* False: too short to be an input. */
bool sparse_parse(const uint8_t *data, size_t size, struct input_head *head, struct sparse *image);

/* Any bytes of the image, zeros behind its end. */
void sparse_read(const struct sparse *image, uint64_t offset, uint8_t *to, uint64_t length);

/* The options that the flags, and the request of the image, ask for; those of one step. */
struct asked_options sparse_options(const struct sparse *image, uint8_t flags);
/* What the host makes of the image's first sector, as vmm/qcow2/probe.py and vmm/amend/messages.py do. */
void sparse_config(const struct sparse *image, uint8_t flags, struct AmendConfig *config);

/* The planner's callbacks; each ends the process if the planner breaks a rule. */
bool reading_read(void *reading, uint32_t phase, const struct io_range *ranges, uint32_t count);
bool reading_write(void *reading, uint32_t phase, const struct io_range *ranges, uint32_t count);
bool reading_scatter(void *reading, uint32_t phase, const struct io_sectors *sectors, uint32_t count,
                     bool later);
bool reading_zero(void *reading, const struct io_segment *segments, uint32_t count);
void reading_progress(void *reading, uint64_t done, uint64_t total);

/* Lay what was staged for a phase over the image. */
void sparse_apply(struct sparse *image, const struct staged *staged, uint32_t phase);

/* Ends the process with a message: the planner broke a promise. */
_Noreturn void broken(const char *promise, unsigned line);
#define PROMISE(condition) ((condition) ? (void)0 : broken(#condition, __LINE__))

#endif
