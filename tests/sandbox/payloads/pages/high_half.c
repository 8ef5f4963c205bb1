/* Test side, rogue payload: reads the half of the address space that kernels use. */
#include "../rogue.h"

ROGUE_AT(0xffff800000000000, "movb (%rax), %al")
