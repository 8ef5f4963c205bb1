/* Test side, rogue payload: the planner, but zeros begin a sector before the old end of the disk. */
#include "../liar.h"

static void lie(uint32_t phase, uint64_t offset, uint8_t *bytes, uint64_t length)
{
    if (phase == INSTAR_PHASE_PREPARE && length > SECTOR_SIZE && offset < config->image_size)
        for (uint64_t at = 0; at < SECTOR_SIZE; at++)
            bytes[at] = 0;
}
