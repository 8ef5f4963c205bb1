/* Test side, rogue payload: loads other page tables. */
#include "../rogue.h"

ROGUE("movl $0x5b000, %eax\n"
      "movq %rax, %cr3")
