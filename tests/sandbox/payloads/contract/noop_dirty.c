/* Test side, rogue payload: reports a no-op on an image that says it is dirty. */
#include "../rogue.h"

void operation_start(void)
{
    struct AmendResult result = honest_result(0);
    result.action = AMEND_ACTION_NOOP;
    result.resulting_incompatible_features = 1;
    send_result(result);
}
