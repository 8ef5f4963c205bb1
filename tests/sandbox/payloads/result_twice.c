/* Test side, rogue payload: sends its result twice. */
#include "rogue.h"

void operation_start(void)
{
    write_toggle();
    send_result(honest_result(1));
    send_result(honest_result(1));
}
