/* Test side, rogue payload: reads an address that is no address. */
#include "../rogue.h"

ROGUE_AT(0x800000000000, "movb (%rax), %al")
