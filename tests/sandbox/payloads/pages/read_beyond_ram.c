/* Test side, rogue payload: reads behind the end of RAM. */
#include "../rogue.h"

ROGUE_AT(0x200000, "movb (%rax), %al")
