/* Test side, rogue payload: lets the header name another place for the keys, and says so. */
#include "said.h"

void operation_start(void)
{
    uint8_t *header = read_header();
    struct AmendResult result = noop_of(header);
    store64(header + 120, 0x20000); /* the first extension's data */
    write_sector(0);
    result.action = AMEND_ACTION_AMENDED;
    send_result(result);
}
