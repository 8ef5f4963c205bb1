/* Test side, rogue payload: reads the page tables. */
#include "rogue.h"

ROGUE_AT(0x1f0000, "movb (%rax), %al")
