/* Test side, rogue payload: says what an info says. */
#include "told.h"

void operation_start(void)
{
    tell_name();
    end_check((struct CheckResult){.leaks = 0});
}
