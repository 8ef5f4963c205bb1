/* Test side, rogue payload: tells a snapshot whose name goes on beyond the frame. */
#include "told.h"

void operation_start(void)
{
    const struct told_snapshot snapshot = SNAPSHOT();
    tell(FRAME_INFO_SNAPSHOTS, &snapshot, sizeof(snapshot) - 1);
    end_info((struct InfoResult){.read = READ_ALL, .snapshots_told = 1});
}
