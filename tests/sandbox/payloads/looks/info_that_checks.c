/* Test side, rogue payload: says what a check says. */
#include "told.h"

void operation_start(void)
{
    end_check((struct CheckResult){.leaks = 1});
}
