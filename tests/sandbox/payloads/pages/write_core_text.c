/* Test side, rogue payload: writes the executor's text. */
#include "../rogue.h"

ROGUE_AT(0x11000, "movb %al, (%rax)")
