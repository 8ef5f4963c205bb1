/* Test side, rogue payload: writes the port below the doorbell. */
#include "../rogue.h"

ROGUE("outb %al, $0xdf")
