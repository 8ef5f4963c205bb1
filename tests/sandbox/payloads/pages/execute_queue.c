/* Test side, rogue payload: runs code in the queues. */
#include "../rogue.h"

ROGUE_AT(0x9800, "movb $0xc3, (%rax)\n"
      "jmp *%rax")
