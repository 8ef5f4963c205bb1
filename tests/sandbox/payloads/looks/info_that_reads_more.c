/* Test side, rogue payload: reads what nobody knows. */
#include "told.h"

void operation_start(void)
{
    tell_name();
    end_info((struct InfoResult){.read = UINT32_MAX});
}
