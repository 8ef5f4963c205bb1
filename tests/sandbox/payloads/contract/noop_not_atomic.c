/* Test side, rogue payload: reports a no-op that took more than one sector. */
#include "../rogue.h"

void operation_start(void)
{
    struct AmendResult result = honest_result(0);
    result.action = AMEND_ACTION_NOOP;
    result.atomic = 0;
    send_result(result);
}
