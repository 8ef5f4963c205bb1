/* Test side, rogue payload: reads a performance counter. */
#include "../rogue.h"

ROGUE("xorl %ecx, %ecx\n"
      "rdpmc")
