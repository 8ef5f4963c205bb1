/* Test side, rogue payload: sends a result with another magic. */
#include "../rogue.h"

void operation_start(void)
{
    struct AmendResult result = honest_result(1);
    write_toggle();
    result.magic = 0;
    send_result(result);
}
