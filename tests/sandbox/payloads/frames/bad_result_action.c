/* Test side, rogue payload: reports an action that does not exist. */
#include "../rogue.h"

void operation_start(void)
{
    struct AmendResult result = honest_result(1);
    write_toggle();
    result.action = 2;
    send_result(result);
}
