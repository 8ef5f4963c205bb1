/* Test side, rogue payload: reads across the end of the request's page. */
#include "../rogue.h"

ROGUE_AT(0xeffc, "movq (%rax), %rax")
