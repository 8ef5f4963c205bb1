/* Test side, rogue payload: pushes until the stack is full, and on. */
#include "../rogue.h"

ROGUE("1: pushq %rax\n"
      "jmp 1b")
