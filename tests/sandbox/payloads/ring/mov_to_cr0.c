/* Test side, rogue payload: switches paging off. */
#include "../rogue.h"

ROGUE("xorl %eax, %eax\n"
      "movq %rax, %cr0")
