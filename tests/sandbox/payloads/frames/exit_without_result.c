/* Test side, rogue payload: ends in the regular way, without a word. */
#include "../rogue.h"

void operation_start(void)
{
}
