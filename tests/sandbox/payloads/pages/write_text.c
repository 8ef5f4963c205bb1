/* Test side, rogue payload: writes its own text. */
#include "../rogue.h"

ROGUE_AT(0x19000, "movb %al, (%rax)")
