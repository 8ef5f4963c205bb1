/* Test side, rogue payload: changes the processor's features. */
#include "../rogue.h"

ROGUE("movl $0x20, %eax\n"
      "movq %rax, %cr4")
