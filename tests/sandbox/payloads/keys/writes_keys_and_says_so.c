/* Test side, rogue payload: writes over the LUKS header, as if that were what is asked of it. */
#include "said.h"

void operation_start(void)
{
    struct AmendResult result = noop_of(read_header());
    write_sector(0x10000);
    result.action = AMEND_ACTION_AMENDED;
    send_result(result);
}
