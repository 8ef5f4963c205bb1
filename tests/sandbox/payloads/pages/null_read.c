/* Test side, rogue payload: reads address 0. */
#include "../rogue.h"

ROGUE_AT(0, "movb (%rax), %al")
