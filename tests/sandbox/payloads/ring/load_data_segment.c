/* Test side, rogue payload: loads a segment register. */
#include "../rogue.h"

ROGUE("movw $0x10, %ax\n"
      "movw %ax, %ds")
