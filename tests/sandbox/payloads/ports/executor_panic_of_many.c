/* Test side, rogue payload: has frames wait that are, by one byte, too many for the executor. */
#include "../rogue.h"

void operation_start(void)
{
    struct AmendProgress progress = {1, 2};
    uint32_t size = sizeof(struct FrameHeader) + sizeof(progress);
    for (uint32_t n = 1; n < INSTAR_TRANSMIT_MAX / size; n++)
        calls->send_frame(FRAME_PROGRESS, &progress, sizeof(progress), false);
    calls->send_frame(FRAME_PROGRESS, calls->workspace, sizeof(progress) + 1, true);
}
