/* Test side, rogue payload: reads RAM that is not mapped. */
#include "../rogue.h"

ROGUE_AT(0x47000, "movb (%rax), %al")
