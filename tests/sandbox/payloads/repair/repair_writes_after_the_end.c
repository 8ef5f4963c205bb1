/* Test side, rogue payload: repairs, and writes where no file is yet. */
#include "../rogue.h"

void operation_start(void)
{
    const struct AmendConfig *asked = (const struct AmendConfig *)OPERATION_CONFIG_ADDR;
    memset(calls->workspace, 0xff, 512);
    write_in(INSTAR_PHASE_PREPARE, asked->image_size);
    repaired_header();
    send_repair();
}
