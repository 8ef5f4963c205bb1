/* Test side, rogue payload: enables processor state. */
#include "../rogue.h"

ROGUE("xorl %ecx, %ecx\n"
      "movl $1, %eax\n"
      "xorl %edx, %edx\n"
      "xsetbv")
