/* Test side, rogue payload: opens all ports in the TSS. */
#include "../rogue.h"

ROGUE_AT(0x1068, "movb %al, (%rax)")
