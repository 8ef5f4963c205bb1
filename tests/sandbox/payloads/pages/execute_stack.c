/* Test side, rogue payload: runs code on the stack. */
#include "../rogue.h"

ROGUE_AT(0xb010, "movb $0xc3, (%rax)\n"
      "jmp *%rax")
