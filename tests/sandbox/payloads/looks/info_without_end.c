/* Test side, rogue payload: says nothing, again and again. */
#include "told.h"

void operation_start(void)
{
    for (;;)
        tell(FRAME_INFO_FEATURES, 0, 0);
}
