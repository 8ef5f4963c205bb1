/* Test side, rogue payload: the planner, but the disk gets a size that nobody asked for. */
#include "../liar.h"

static void lie(uint32_t phase, uint64_t offset, uint8_t *bytes, uint64_t length)
{
    if (phase == INSTAR_PHASE_SWITCH)
        add_at(24, 512, offset, bytes, length);
}
