/* Test side, honest payload until its result: writes outside the header after its result. */
#include "../rogue.h"

void operation_start(void)
{
    write_toggle();
    send_result(honest_result(1));
    write_sector(0x10000);
}
