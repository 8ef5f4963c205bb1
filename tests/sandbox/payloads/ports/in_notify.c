/* Test side, rogue payload: reads the doorbell. */
#include "../rogue.h"

ROGUE("inb $0xe0, %al")
