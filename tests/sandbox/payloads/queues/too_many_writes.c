/* Test side, rogue payload: writes every sector of the image in every phase. */
#include "../rogue.h"

void operation_start(void)
{
    for (uint32_t phase = 0; phase < INSTAR_PHASE_COUNT; phase++)
        for (uint64_t offset = 0; offset < 0x40000; offset += 512)
            write_in(phase, offset);
}
