/* Test side, rogue payload: loads other page tables. */
#include "rogue.h"

ROGUE("movl $0x32000, %eax\n"
      "movq %rax, %cr3")
