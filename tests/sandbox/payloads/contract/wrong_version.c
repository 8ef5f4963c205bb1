/* Test side, rogue payload: changes the version instead. */
#include "../rogue.h"

void operation_start(void)
{
    struct AmendResult result = honest_result(0);
    uint8_t *header = read_header();
    header[7] = 2;
    write_sector(0);
    result.resulting_version = 2;
    send_result(result);
}
