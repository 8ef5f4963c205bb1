/* Test side, rogue payload: pops until the stack is empty, and on. */
#include "../rogue.h"

ROGUE("1: popq %rax\n"
      "jmp 1b")
