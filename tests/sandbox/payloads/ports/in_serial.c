/* Test side, rogue payload: reads the serial port. */
#include "../rogue.h"

ROGUE("movw $0x3f8, %dx\n"
      "inb %dx, %al")
