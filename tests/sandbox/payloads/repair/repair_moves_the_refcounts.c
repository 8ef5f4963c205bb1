/* Test side, rogue payload: repairs, and has guest data be the refcount table. */
#include "../rogue.h"

void operation_start(void)
{
    store64(repaired_header() + 48, 512);
    send_repair();
}
