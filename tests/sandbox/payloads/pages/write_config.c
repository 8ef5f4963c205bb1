/* Test side, rogue payload: writes the request. */
#include "../rogue.h"

ROGUE_AT(0xa008, "movb %al, (%rax)")
