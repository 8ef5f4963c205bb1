/* Test side, rogue payload: writes the request. */
#include "rogue.h"

ROGUE_AT(0x2b008, "movb %al, (%rax)")
