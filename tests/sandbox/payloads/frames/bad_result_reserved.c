/* Test side, rogue payload: sets a reserved field of its result. */
#include "../rogue.h"

void operation_start(void)
{
    struct AmendResult result = honest_result(1);
    write_toggle();
    result.reserved = 1;
    send_result(result);
}
