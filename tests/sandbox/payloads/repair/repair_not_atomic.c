/* Test side, rogue payload: repairs, and says that it does so with several sectors. */
#include "../rogue.h"

void operation_start(void)
{
    struct AmendResult result = honest_result(0);
    repaired_header();
    write_sector(0);
    result.atomic = 0;
    send_result(result);
}
