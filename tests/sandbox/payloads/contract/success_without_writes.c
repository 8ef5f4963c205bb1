/* Test side, rogue payload: reports success and writes nothing. */
#include "../rogue.h"

void operation_start(void)
{
    send_result(honest_result(1));
}
