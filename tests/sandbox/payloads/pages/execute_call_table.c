/* Test side, rogue payload: runs the call table. */
#include "../rogue.h"

ROGUE_AT(0x10000, "jmp *%rax")
