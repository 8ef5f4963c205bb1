/* Test side, rogue payload: reports an error without a reason. */
#include "../rogue.h"

void operation_start(void)
{
    struct AmendResult result = honest_result(1);
    write_toggle();
    result.error = AMEND_ERROR_DIRTY;
    send_result(result);
}
