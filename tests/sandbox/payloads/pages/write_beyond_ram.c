/* Test side, rogue payload: writes behind the end of RAM. */
#include "../rogue.h"

ROGUE_AT(0x200000, "movb %al, (%rax)")
