/* Test side, rogue payload: reports that its one sector is not atomic. */
#include "../rogue.h"

void operation_start(void)
{
    struct AmendResult result = honest_result(1);
    write_toggle();
    result.atomic = 0;
    send_result(result);
}
