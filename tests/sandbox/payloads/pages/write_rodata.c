/* Test side, rogue payload: writes its own constants. */
#include "../rogue.h"

ROGUE_AT(0x18000, "movb %al, (%rax)")
