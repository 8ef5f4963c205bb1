/* Test side, rogue payload: counts another number of snapshots than it tells. */
#include "told.h"

void operation_start(void)
{
    const struct told_snapshot snapshot = SNAPSHOT();
    tell_name();
    tell(FRAME_INFO_SNAPSHOTS, &snapshot, sizeof(snapshot));
    end_info((struct InfoResult){.read = READ_ALL, .snapshots_told = 2});
}
