/* Test side, rogue payload: says that there is nothing to be repaired. */
#include "../rogue.h"

void operation_start(void)
{
    struct AmendResult result = honest_result(0);
    result.action = AMEND_ACTION_NOOP;
    result.resulting_incompatible_features = 1;
    send_result(result);
}
