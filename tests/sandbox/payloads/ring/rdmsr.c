/* Test side, rogue payload: reads EFER. */
#include "../rogue.h"

ROGUE("movl $0xc0000080, %ecx\n"
      "rdmsr")
