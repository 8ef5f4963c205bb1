/* Pure, either side: shows what has been counted in the untrusted image as refcounts. */
#include "repair/counted.h"

#include "instar_abi.h"
#include "qcow2/refcounts.h"

#define STRETCH 0x8000u /* clusters that are shown at a time */

_Static_assert(STRETCH * sizeof(uint32_t) <= COUNT_SOURCE_SIZE, "recode() has the rest");

static void rewind_counted(void *context)
{
    struct counted *counted = context;
    counted->next = 0;
}

static bool next_counted(void *context, struct stretch *stretch)
{
    struct counted *counted = context;
    uint8_t *refcounts = counted->image->memory->batch;
    uint32_t order = counted->counts->wide ? 5 : 4;
    *stretch = (struct stretch){counted->next, 0, order, refcounts};
    if (counted->next >= counted->clusters)
        return true;
    if (!spend(&counted->image->file.budget, STRETCH))
        return false;
    for (uint64_t i = 0; i < STRETCH; i++) {
        uint64_t cluster = counted->next + i;
        store_refcount(refcounts, i, order,
                       cluster < counted->clusters ? get_count(counted->counts, cluster) : 0);
    }
    counted->next += STRETCH;
    stretch->count = STRETCH;
    return true;
}

/* Whether a cluster of a block device is free: nothing refers to it, and it is not in an old structure. */
static bool tell_if_free(void *context, uint64_t cluster, bool *is_free)
{
    struct counted *counted = context;
    *is_free = cluster < counted->clusters && get_count(counted->counts, cluster) == 0 &&
               (*use_of(counted->counts, cluster) & USE_MASK) == AMEND_USE_UNKNOWN;
    return true;
}

struct count_source counted_source(struct counted *counted)
{
    return (struct count_source){
        .context = counted,
        .rewind = rewind_counted,
        .next = next_counted,
        .tell_free = tell_if_free,
    };
}
