/* Test side, rogue payload: the planner, but a cluster is given up that a snapshot uses too. */
#include "../liar.h"

static void lie(uint32_t phase, uint64_t offset, uint8_t *bytes, uint64_t length)
{
    for (uint64_t at = 0; phase == INSTAR_PHASE_RELEASE && at < length; at += 2)
        if (bytes[at] == 0 && bytes[at + 1] == 1 && offset + at > 64)
            bytes[at + 1] = 0;
}
