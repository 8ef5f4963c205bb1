/* Test side, rogue payload: the planner, but a refcount block lies over the L1 table. */
#include "../liar.h"

static void lie(uint32_t phase, uint64_t offset, uint8_t *bytes, uint64_t length)
{
    uint8_t *entry = word_at(after_end(0), offset, bytes, length);
    const uint8_t *header = phase == INSTAR_PHASE_PREPARE && entry ? read_aside(0) : 0;
    if (header)
        store_be64(entry, load_be64(header + 40));
}
