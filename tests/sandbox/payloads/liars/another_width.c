/* Test side, rogue payload: the planner, but the header says that refcounts have another width. */
#include "../liar.h"

static void lie(uint32_t phase, uint64_t offset, uint8_t *bytes, uint64_t length)
{
    if (phase == INSTAR_PHASE_SWITCH)
        add_at(96, -UINT64_C(1) << 32, offset, bytes, length);
}
