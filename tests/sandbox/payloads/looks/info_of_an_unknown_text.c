/* Test side, rogue payload: tells a text that is nothing. */
#include "told.h"

void operation_start(void)
{
    tell_text(4, 0, "x", 1);
    end_info((struct InfoResult){.read = READ_ALL});
}
