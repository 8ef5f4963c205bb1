/* Test side, rogue payload: runs the request. */
#include "../rogue.h"

ROGUE_AT(0xa000, "jmp *%rax")
