/* Test side, rogue payload: reads the page tables. */
#include "../rogue.h"

ROGUE_AT(0x2000, "movb (%rax), %al")
