/* Test side, rogue payload: writes the image's second cluster. */
#include "../rogue.h"

void operation_start(void)
{
    write_toggle();
    write_sector(0x10000);
    send_result(honest_result(1));
}
