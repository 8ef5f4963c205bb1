/* Test side, rogue payload: writes the 16550's next register. */
#include "../rogue.h"

ROGUE("movw $0x3f9, %dx\n"
      "outb %al, %dx")
