/* Test side, rogue payload: writes EFER. */
#include "../rogue.h"

ROGUE("movl $0xc0000080, %ecx\n"
      "xorl %eax, %eax\n"
      "xorl %edx, %edx\n"
      "wrmsr")
