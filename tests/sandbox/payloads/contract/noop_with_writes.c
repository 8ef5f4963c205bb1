/* Test side, rogue payload: writes, and reports that nothing was to be done. */
#include "../rogue.h"

void operation_start(void)
{
    struct AmendResult result = honest_result(1);
    write_toggle();
    result.action = AMEND_ACTION_NOOP;
    send_result(result);
}
