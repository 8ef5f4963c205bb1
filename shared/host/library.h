/* Test side: what the library offers to tests and fuzzers, which call it by cffi. */
#ifndef INSTAR_LIBRARY_H
#define INSTAR_LIBRARY_H

#include <stdbool.h>
#include <stdint.h>

#include "instar_abi.h"

/* cffi: begin */
struct host_write {
    uint32_t phase;
    bool zeroes; /* data is null */
    uint64_t offset;
    uint64_t length;
    uint8_t *data;
};

struct host_outcome {
    bool understood; /* the option records are what they should be; else nothing else is said */
    bool planned;
    struct AmendResult result;
    uint32_t refusal_count;
    struct AmendRefusal refusals[64];
    uint32_t names_size;
    uint8_t names[2048];
    uint32_t snapshots_size;
    uint8_t snapshots[2048];
    uint32_t options_size;
    uint8_t options[3584]; /* as FRAME_OPTIONS has them */
    uint32_t write_count;
    const struct host_write *writes; /* valid until the next call from the same thread */
    uint64_t bytes_read;
    uint32_t read_calls;
    uint32_t progress_calls;
    bool misuse; /* the planner broke the rules of a callback */
};

/* Plan what is asked for on the image; `request` is an AmendConfig and its option records. The callback
 * with number fail_call (from 1 on) that reads or stages fails. */
void host_plan(const uint8_t *request, const uint8_t *image, uint64_t size, uint32_t fail_call,
               struct host_outcome *outcome);

/* One change of refcounts: clusters in a row that are taken, where that is possible, or given up. */
struct host_change {
    bool take;
    uint64_t count; /* of clusters */
    uint64_t references;
    uint64_t offset; /* set when they are taken */
};

/* Carry out the changes in the books, in order, and nothing else; refcounts may be of any width. */
void host_change_books(const uint8_t *image, uint64_t size, uint64_t max_growth,
                       struct host_change *changes, uint32_t count, struct host_outcome *outcome);

/* Of qcow2/refcounts.h. */
uint64_t load_refcount(const uint8_t *block, uint64_t index, uint32_t order);
void store_refcount(uint8_t *block, uint64_t index, uint32_t order, uint64_t refcount);
uint64_t largest_refcount(uint32_t order);
/* cffi: end */

#endif
