/* Test side, rogue payload: writes over the LUKS header, and says that there is nothing to do. */
#include "said.h"

void operation_start(void)
{
    struct AmendResult result = noop_of(read_header());
    write_sector(0x10000);
    send_result(result);
}
