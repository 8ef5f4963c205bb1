/* Test side, rogue payload: switches in the slack phase. */
#include "rogue.h"

void operation_start(void)
{
    write_toggle();
    calls->flush_blocks();
    write_sector(0);
    send_result(honest_result(1));
}
