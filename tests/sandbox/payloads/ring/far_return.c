/* Test side, rogue payload: returns to a segment of ring 0. */
#include "../rogue.h"

ROGUE("pushq $8\n"
      "pushq $0x19000\n"
      "lretq")
