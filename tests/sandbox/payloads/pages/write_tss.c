/* Test side, rogue payload: opens all ports in the TSS. */
#include "../rogue.h"

ROGUE_AT(0xf068, "movb %al, (%rax)")
