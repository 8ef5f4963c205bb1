/* Test side, honest payload: has as many frames wait as the executor has room for. */
#include "../rogue.h"

void operation_start(void)
{
    struct AmendProgress progress = {1, 2};
    uint32_t frames = INSTAR_TRANSMIT_MAX / (sizeof(struct FrameHeader) + sizeof(progress));
    _Static_assert(INSTAR_TRANSMIT_MAX % (sizeof(struct FrameHeader) + sizeof(progress)) == 0,
                   "frames of progress fill the buffer");
    for (uint32_t n = 1; n <= frames; n++)
        calls->send_frame(FRAME_PROGRESS, &progress, sizeof(progress), n == frames);
    write_toggle();
    send_result(honest_result(1));
}
