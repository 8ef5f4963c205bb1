/* Test side, rogue payload: writes the first port that the I/O bitmap does not list. */
#include "../rogue.h"

ROGUE("movw $0x400, %dx\n"
      "outb %al, %dx")
