/* Test side, rogue payload: has another file stand in the image's place until the switch. */
#include "../rogue.h"

void operation_start(void)
{
    memcpy(read_header(), "XXXX", 4);
    write_in(INSTAR_PHASE_REFCOUNT_TABLE, 0);
    write_toggle();
    send_result(honest_result(1));
}
