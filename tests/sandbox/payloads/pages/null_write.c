/* Test side, rogue payload: writes address 0. */
#include "../rogue.h"

ROGUE_AT(0, "movb %al, (%rax)")
