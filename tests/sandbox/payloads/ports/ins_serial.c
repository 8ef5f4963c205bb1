/* Test side, rogue payload: reads a string from the serial port. */
#include "../rogue.h"

ROGUE("movw $0x3f8, %dx\n"
      "movl $0x5d000, %edi\n"
      "movl $4, %ecx\n"
      "rep insb")
