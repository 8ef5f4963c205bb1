/* Test side, rogue payload: makes the header one of version 2, and leaves zero clusters. */
#include "../rogue.h"

void operation_start(void)
{
    struct AmendResult result = honest_result(0);
    uint8_t *header = read_header();
    header[7] = 2;
    memset(header + 72, 0, 512 - 72);
    write_sector(0);
    result.resulting_version = 2;
    send_result(result);
}
