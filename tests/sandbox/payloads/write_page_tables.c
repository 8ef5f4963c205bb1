/* Test side, rogue payload: writes the page tables. */
#include "rogue.h"

ROGUE_AT(0x1f3000, "movb %al, (%rax)")
