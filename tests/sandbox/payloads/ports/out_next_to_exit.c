/* Test side, rogue payload: writes the port above the exit port. */
#include "../rogue.h"

ROGUE("outb %al, $0xf5")
