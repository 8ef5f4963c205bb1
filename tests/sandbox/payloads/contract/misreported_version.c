/* Test side, rogue payload: reports another version than it wrote. */
#include "../rogue.h"

void operation_start(void)
{
    struct AmendResult result = honest_result(1);
    write_toggle();
    result.resulting_version = 2;
    send_result(result);
}
