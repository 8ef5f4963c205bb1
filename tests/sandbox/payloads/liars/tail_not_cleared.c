/* Test side, rogue payload: the planner, but a byte past the old end of the disk is left. */
#include "../liar.h"

static void lie(uint32_t phase, uint64_t offset, uint8_t *bytes, uint64_t length)
{
    if (phase == INSTAR_PHASE_PREPARE && length > SECTOR_SIZE && offset < config->image_size)
        bytes[0] = 'd';
}
