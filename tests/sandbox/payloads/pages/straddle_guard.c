/* Test side, rogue payload: reads across the end of the stack. */
#include "../rogue.h"

ROGUE_AT(0xeffc, "movq (%rax), %rax")
