/* Test side, rogue payload: tells of its progress, and of nothing else. */
#include "told.h"

void operation_start(void)
{
    for (;;)
        tell(FRAME_PROGRESS, &(struct AmendProgress){1, 2}, sizeof(struct AmendProgress));
}
