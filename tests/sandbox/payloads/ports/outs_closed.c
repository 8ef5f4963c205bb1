/* Test side, rogue payload: writes a string to a closed port. */
#include "../rogue.h"

ROGUE("movw $0x3f9, %dx\n"
      "movq %rsp, %rsi\n"
      "movl $4, %ecx\n"
      "rep outsb")
