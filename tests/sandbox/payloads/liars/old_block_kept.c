/* Test side, rogue payload: the planner, but the new refcount table names an old block. */
#include "../liar.h"

static void lie(uint32_t phase, uint64_t offset, uint8_t *bytes, uint64_t length)
{
    uint8_t *entry = word_at(after_end(0), offset, bytes, length);
    const uint8_t *old = phase == INSTAR_PHASE_PREPARE && entry ? read_aside(0) : 0;
    old = old ? read_aside(load_be64(old + 48)) : 0; /* the refcount table */
    if (old)
        store_be64(entry, load_be64(old));
}
