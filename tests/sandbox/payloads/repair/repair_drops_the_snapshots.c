/* Test side, rogue payload: repairs, and drops the snapshots on the way. */
#include "../rogue.h"

void operation_start(void)
{
    store32(repaired_header() + 60, 0);
    send_repair();
}
