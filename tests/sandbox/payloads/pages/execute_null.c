/* Test side, rogue payload: jumps to address 0. */
#include "../rogue.h"

ROGUE_AT(0, "jmp *%rax")
