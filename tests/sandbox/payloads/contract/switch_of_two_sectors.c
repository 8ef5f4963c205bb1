/* Test side, rogue payload: switches with two sectors where one does it, and says so. */
#include "../rogue.h"

void operation_start(void)
{
    struct AmendResult result = honest_result(1);
    struct block_range range = {0, 1024, calls->workspace};
    calls->read_blocks(INSTAR_PHASE_PREPARE, &range, 1);
    calls->workspace[87] |= 1;
    calls->write_blocks(INSTAR_PHASE_SWITCH, &range, 1);
    result.atomic = 0;
    send_result(result);
}
