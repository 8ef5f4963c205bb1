/* Test side, rogue payload: tells a bitmap, and counts none. */
#include "told.h"

void operation_start(void)
{
    const struct told_bitmap bitmap = BITMAP(16);
    tell_name();
    tell(FRAME_INFO_BITMAPS, &bitmap, sizeof(bitmap));
    end_info((struct InfoResult){.read = READ_ALL, .bitmaps_told = 1});
}
