/* Test side, rogue payload: writes two bytes to the serial port. */
#include "../rogue.h"

ROGUE("movw $0x3f8, %dx\n"
      "outw %ax, %dx")
