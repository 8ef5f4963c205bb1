/* Test side, rogue payload: takes a phase too many. */
#include "rogue.h"

void operation_start(void)
{
    toggled_header();
    for (uint64_t phase = 2; phase; phase--) {
        write_sector(0x1000 * phase);
        calls->flush_blocks();
    }
    write_sector(0);
    send_result(honest_result(1));
}
