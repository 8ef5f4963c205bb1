/* Test side, rogue payload: reads across the end of the request's page. */
#include "rogue.h"

ROGUE_AT(0x2bffc, "movq (%rax), %rax")
