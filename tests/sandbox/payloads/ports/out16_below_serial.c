/* Test side, rogue payload: writes two bytes, the second to the serial port. */
#include "../rogue.h"

ROGUE("movw $0x3f7, %dx\n"
      "outw %ax, %dx")
