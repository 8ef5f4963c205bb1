/* Test side, rogue payload: writes the call table. */
#include "../rogue.h"

ROGUE_AT(0x10008, "movb %al, (%rax)")
