/* Test side, rogue payload: the planner, but for nothing. */
#include "../liar.h"

static void lie(uint32_t phase, uint64_t offset, uint8_t *bytes, uint64_t length)
{
    (void)phase;
    (void)offset;
    (void)bytes;
    (void)length;
}
