/* Test side, rogue payload: sets a hardware breakpoint. */
#include "../rogue.h"

ROGUE("movl $0x401, %eax\n"
      "movq %rax, %dr7")
