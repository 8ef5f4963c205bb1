/* Test side, rogue payload: reads the exit port. */
#include "../rogue.h"

ROGUE("inb $0xf4, %al")
