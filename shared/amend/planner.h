/* Pure, either side: the amend planner's interface.
 *
 * The planner reads an image through callbacks, decides whether it can be amended as asked, and
 * stages which bytes to write in which phase. It has no I/O, no state and no allocation of its own:
 * all its memory is the caller's workspace.
 */
#ifndef INSTAR_PLANNER_H
#define INSTAR_PLANNER_H

#include <stdbool.h>
#include <stdint.h>

#include "instar_abi.h"

#define PLANNER_RANGES_MAX 40u

/* The part of the header cluster that headers may use: fields, extensions and relocated names. */
#define PLANNER_HEADER_SIZE 0x10000u
#define PLANNER_TABLE_SIZE 0x10000u
#define PLANNER_WINDOW_SIZE 0x10000u
#define PLANNER_SMALL_WINDOW_SIZE 0x1000u
#define PLANNER_BATCH_SIZE 0x100000u
#define PLANNER_SEEN_MAX 8192u
#define PLANNER_NAMES_SIZE 1536u /* with all refusals they fit one transmit buffer */

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

/* Of all callbacks false means an I/O error. No range reaches beyond size + max_growth of the
 * config, rounded up to 512; what neither the image nor a write has reads as zeros. */
struct image_io {
    void *context;
    uint64_t size; /* of the image file in bytes, any number */
    /* Fill all ranges with the image as it is once all phases below `phase` are written. */
    bool (*read)(void *context, uint32_t phase, const struct io_range *ranges, uint32_t count);
    /* Stage all ranges for `phase` (INSTAR_PHASE_*); the last write of a byte in a phase counts. */
    bool (*write)(void *context, uint32_t phase, const struct io_range *ranges, uint32_t count);
    /* Stage zeros for INSTAR_PHASE_PREPARE; reads do not see them. */
    bool (*zero)(void *context, const struct io_segment *segments, uint32_t count);
    void (*progress)(void *context, uint64_t done, uint64_t total);
};

/* Reasons to refuse, in the order found. */
struct verdict {
    uint32_t count;
    struct AmendRefusal refusals[REFUSAL_MAX];
    uint32_t names_size;              /* in bytes; of the bitmaps that are in the way */
    uint8_t names[PLANNER_NAMES_SIZE]; /* as FRAME_NAMES has them */
};

/* What is needed at one time and not at another. */
union planner_scratch {
    struct io_segment segments[INSTAR_ZEROES_SEGMENTS_MAX];
    struct {
        uint64_t pending[PLANNER_BATCH_SIZE / 8 / 64]; /* a bit for each entry of a batch */
        uint16_t refcounts[PLANNER_BATCH_SIZE / 512];  /* of each table of a batch */
    } agenda;
};

/* Scratch memory; need not be initialised. */
struct planner_workspace {
    uint8_t old_header[PLANNER_HEADER_SIZE];
    uint8_t new_header[PLANNER_HEADER_SIZE];
    uint8_t table[PLANNER_TABLE_SIZE];
    uint8_t other_table[PLANNER_TABLE_SIZE];
    uint8_t batch[PLANNER_BATCH_SIZE];
    uint64_t seen[PLANNER_SEEN_MAX]; /* L2 tables by their numbers */
    uint8_t snapshots[PLANNER_WINDOW_SIZE];
    uint8_t refcount_table[PLANNER_SMALL_WINDOW_SIZE];
    uint8_t refcounts[PLANNER_WINDOW_SIZE];
    uint8_t prepared[PLANNER_WINDOW_SIZE];
    uint8_t released[PLANNER_WINDOW_SIZE];
    union planner_scratch scratch;
};

struct amend_plan {
    uint32_t action; /* AMEND_ACTION_* */
    bool atomic;     /* the switch is the write of one sector */
    uint32_t version;
    uint64_t incompatible_features; /* the words of the amended image; 0 in version 2 */
    uint64_t compatible_features;
    uint64_t autoclear_features;
};

/* Plan what `config` asks for. True: `plan` is complete, and what is to be written is staged; nothing
 * is for a no-op. False: `verdict` says why not, and holds every reason that could be established;
 * what has been staged is void. */
bool plan_amend(const struct AmendConfig *config, const struct image_io *io,
                struct planner_workspace *workspace, struct amend_plan *plan,
                struct verdict *verdict);

/* The AmendResult for what plan_amend left behind. */
void describe_result(const struct amend_plan *plan, const struct verdict *verdict,
                     struct AmendResult *result);

#endif
