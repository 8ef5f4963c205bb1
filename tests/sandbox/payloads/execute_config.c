/* Test side, rogue payload: runs the request. */
#include "rogue.h"

ROGUE_AT(0x2b000, "jmp *%rax")
