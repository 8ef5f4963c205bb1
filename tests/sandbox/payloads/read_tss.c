/* Test side, rogue payload: reads the TSS. */
#include "rogue.h"

ROGUE_AT(0x1f4000, "movb (%rax), %al")
