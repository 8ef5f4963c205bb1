/* Test side, rogue payload: sends its result as text. */
#include "../rogue.h"

void operation_start(void)
{
    struct AmendResult result = honest_result(1);
    write_toggle();
    for (uint32_t i = 0; i < sizeof(result); i++)
        out8(INSTAR_PORT_SERIAL, ((const uint8_t *)&result)[i]);
}
