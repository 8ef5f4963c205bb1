/* Test side, rogue payload: tells a bitmap whose granularity no number can have. */
#include "told.h"

void operation_start(void)
{
    const struct told_bitmap bitmap = BITMAP(64);
    tell(FRAME_INFO_BITMAPS, &bitmap, sizeof(bitmap));
}
