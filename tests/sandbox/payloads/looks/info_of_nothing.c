/* Test side, rogue payload: reads nothing, and finds nothing wrong. */
#include "told.h"

void operation_start(void)
{
    end_info((struct InfoResult){.read = 0});
}
