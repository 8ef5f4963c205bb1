/* Test side, rogue payload: the planner, but a refcount in the last block is one more. */
#include "../liar.h"

static void lie(uint32_t phase, uint64_t offset, uint8_t *bytes, uint64_t length)
{
    if (phase == INSTAR_PHASE_PREPARE)
        add_at(after_end(2), 1, offset, bytes, length);
}
