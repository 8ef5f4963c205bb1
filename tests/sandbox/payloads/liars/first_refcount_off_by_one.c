/* Test side, rogue payload: the planner, but the first refcount is one more. */
#include "../liar.h"

static void lie(uint32_t phase, uint64_t offset, uint8_t *bytes, uint64_t length)
{
    if (phase == INSTAR_PHASE_PREPARE)
        add_at(after_end(1), 1, offset, bytes, length);
}
