/* Test side, rogue payload: runs code in the DMA window. */
#include "rogue.h"

ROGUE_AT(0x34000, "movb $0xc3, (%rax)\n"
      "jmp *%rax")
