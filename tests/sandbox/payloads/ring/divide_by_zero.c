/* Test side, rogue payload: divides by zero. */
#include "../rogue.h"

ROGUE("xorl %ecx, %ecx\n"
      "divl %ecx")
