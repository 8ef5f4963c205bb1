/* Test side, rogue payload: writes one sector over and over. */
#include "rogue.h"

void operation_start(void)
{
    for (;;)
        write_sector(0);
}
