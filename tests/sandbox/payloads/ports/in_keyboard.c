/* Test side, rogue payload: reads a port that is closed. */
#include "../rogue.h"

ROGUE("inb $0x60, %al")
