/* Test side, rogue payload: never stops reporting progress. */
#include "../rogue.h"

void operation_start(void)
{
    struct AmendProgress progress = {1, 2};
    for (uint32_t i = 1;; i++)
        calls->send_frame(FRAME_PROGRESS, &progress, sizeof(progress), i % 100 == 0);
}
