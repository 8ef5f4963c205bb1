/* Test side, rogue payload: writes behind the end in a change of the header alone. */
#include "../rogue.h"

void operation_start(void)
{
    write_toggle();
    write_sector(0x1000000);
    send_result(honest_result(1));
}
