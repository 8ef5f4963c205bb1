/* Test side, rogue payload: writes four bytes to the serial port. */
#include "../rogue.h"

ROGUE("movw $0x3f8, %dx\n"
      "outl %eax, %dx")
