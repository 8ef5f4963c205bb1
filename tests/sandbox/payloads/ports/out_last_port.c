/* Test side, rogue payload: writes the last port. */
#include "../rogue.h"

ROGUE("movw $0xffff, %dx\n"
      "outb %al, %dx")
