/* Test side, rogue payload: says that it has repaired, and has not. */
#include "../rogue.h"

void operation_start(void)
{
    send_result(honest_result(0));
}
