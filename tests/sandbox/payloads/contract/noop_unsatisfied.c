/* Test side, rogue payload: reports that nothing was to be done. */
#include "../rogue.h"

void operation_start(void)
{
    struct AmendResult result = honest_result(1);
    read_header();
    result.action = AMEND_ACTION_NOOP;
    result.resulting_lazy_refcounts = 0;
    result.resulting_compatible_features = 0;
    send_result(result);
}
