/* Test side, rogue payload: tells a snapshot twice. */
#include "told.h"

void operation_start(void)
{
    const struct told_snapshot snapshots[] = {SNAPSHOT(), SNAPSHOT()};
    tell_name();
    tell(FRAME_INFO_SNAPSHOTS, snapshots, sizeof(snapshots));
    end_info((struct InfoResult){.read = READ_ALL, .snapshots_told = 2});
}
