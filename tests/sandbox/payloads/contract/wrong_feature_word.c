/* Test side, rogue payload: marks the image dirty. */
#include "../rogue.h"

void operation_start(void)
{
    uint8_t *header = toggled_header();
    header[79] |= 1;
    write_sector(0);
    send_result(honest_result(1));
}
