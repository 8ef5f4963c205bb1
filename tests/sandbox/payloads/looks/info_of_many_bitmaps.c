/* Test side, rogue payload: counts bitmaps, whether there are any or not. */
#include "told.h"

void operation_start(void)
{
    tell_name();
    end_info((struct InfoResult){.read = READ_ALL, .nb_bitmaps = UINT32_MAX});
}
