/* Pure, either side: the amend planner's interface.
 *
 * The planner reads an image through callbacks, decides whether it can be amended as asked, and says
 * which bytes to write in which order. It has no I/O, no state and no allocation of its own: all its
 * memory is the caller's workspace.
 */
#ifndef INSTAR_PLANNER_H
#define INSTAR_PLANNER_H

#include <stdbool.h>
#include <stdint.h>

#include "instar_abi.h"

#define PLANNER_RANGES_MAX 40u
#define PLANNER_WRITES_MAX 2u

/* The part of the header cluster that headers may use: fields, extensions and relocated names. */
#define PLANNER_HEADER_SIZE 0x10000u
#define PLANNER_TABLE_SIZE 0x10000u
#define PLANNER_BATCH_SIZE 0x100000u

/* Bytes of the image: offset and length are multiples of 512; past the image's end come zeros. */
struct io_range {
    uint64_t offset;
    uint64_t length;
    uint8_t *buffer;
};

struct image_io {
    void *context;
    uint64_t size; /* of the image file in bytes, any number */
    /* Fill all ranges, none of which reaches beyond `size` rounded up to 512. False: an I/O error. */
    bool (*read)(void *context, const struct io_range *ranges, uint32_t count);
    void (*progress)(void *context, uint64_t done, uint64_t total);
};

/* Reasons to refuse, in the order found. */
struct verdict {
    uint32_t count;
    struct AmendRefusal refusals[REFUSAL_MAX];
};

/* Scratch memory; need not be initialised. */
struct planner_workspace {
    uint8_t old_header[PLANNER_HEADER_SIZE];
    uint8_t new_header[PLANNER_HEADER_SIZE];
    uint8_t table[PLANNER_TABLE_SIZE];
    uint8_t other_table[PLANNER_TABLE_SIZE];
    uint8_t batch[PLANNER_BATCH_SIZE];
};

/* Bytes to write: offset and length are multiples of 512; data lies in the workspace. */
struct plan_write {
    uint32_t phase; /* ascending; a barrier lies between two phases */
    uint32_t length;
    uint64_t offset;
    const uint8_t *data;
};

struct amend_plan {
    uint32_t action; /* AMEND_ACTION_* */
    bool atomic;     /* the last phase is the write of one sector */
    uint32_t version;
    uint64_t incompatible_features; /* the words of the amended image; 0 in version 2 */
    uint64_t compatible_features;
    uint64_t autoclear_features;
    uint32_t write_count; /* 0 for a no-op */
    struct plan_write writes[PLANNER_WRITES_MAX];
};

/* Plan what `config` asks for. True: `plan` is complete. False: `verdict` says why not, and holds
 * every reason that could be established. */
bool plan_amend(const struct AmendConfig *config, const struct image_io *io,
                struct planner_workspace *workspace, struct amend_plan *plan,
                struct verdict *verdict);

/* The AmendResult for what plan_amend left behind. */
void describe_result(const struct amend_plan *plan, const struct verdict *verdict,
                     struct AmendResult *result);

#endif
