/* Test side, rogue payload: takes an image that is marked corrupt for sound. */
#include "../rogue.h"

void operation_start(void)
{
    repaired_header()[79] = 0;
    send_repair();
}
