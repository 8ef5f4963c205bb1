/* Test side, rogue payload: reads the TSS. */
#include "../rogue.h"

ROGUE_AT(0xf000, "movb (%rax), %al")
