/* Test side, rogue payload: sends a byte after its result. */
#include "rogue.h"

void operation_start(void)
{
    write_toggle();
    send_result(honest_result(1));
    transmit("x", 1);
}
