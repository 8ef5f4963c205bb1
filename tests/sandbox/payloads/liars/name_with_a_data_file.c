/* Test side, rogue payload: the planner, but an extension with the name of a data file comes with the name. */
#include "../liar.h"

static void lie(uint32_t phase, uint64_t offset, uint8_t *bytes, uint64_t length)
{
    (void)phase;
    for (uint64_t at = 0; offset == 0 && at + 4 <= length; at += 8)
        if (load_be32(bytes + at) == 0x11111111)
            store_be32(bytes + at, 0x44415441);
}
