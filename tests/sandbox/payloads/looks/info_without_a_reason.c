/* Test side, rogue payload: reads no snapshots, and finds nothing wrong. */
#include "told.h"

void operation_start(void)
{
    tell_name();
    end_info((struct InfoResult){.read = READ_ALL & ~INFO_READ_SNAPSHOTS});
}
