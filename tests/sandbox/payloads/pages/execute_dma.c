/* Test side, rogue payload: runs code in the DMA window. */
#include "../rogue.h"

ROGUE_AT(0x5d000, "movb $0xc3, (%rax)\n"
      "jmp *%rax")
