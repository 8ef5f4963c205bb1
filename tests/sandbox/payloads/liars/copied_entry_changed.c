/* Test side, rogue payload: the planner, but an entry of the copied L2 table names another cluster. */
#include "../liar.h"

static void lie(uint32_t phase, uint64_t offset, uint8_t *bytes, uint64_t length)
{
    if (phase == INSTAR_PHASE_PREPARE)
        add_at(after_end(0), config->cluster_size, offset, bytes, length);
}
