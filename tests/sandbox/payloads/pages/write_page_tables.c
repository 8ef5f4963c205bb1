/* Test side, rogue payload: writes the page tables. */
#include "../rogue.h"

ROGUE_AT(0x5000, "movb %al, (%rax)")
