/* Test side, rogue payload: writes the POST port. */
#include "../rogue.h"

ROGUE("outb %al, $0x80")
