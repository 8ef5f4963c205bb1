/* Test side, rogue payload: the planner, but a byte of the new name is another one. */
#include "../liar.h"

static void lie(uint32_t phase, uint64_t offset, uint8_t *bytes, uint64_t length)
{
    (void)phase;
    (void)offset;
    for (uint64_t at = 0; at + 4 <= length; at++)
        if (bytes[at] == 'n' && bytes[at + 1] == 'e' && bytes[at + 2] == 'w' && bytes[at + 3] == '1')
            bytes[at + 3] = '2';
}
