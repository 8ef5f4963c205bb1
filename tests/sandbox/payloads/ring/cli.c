/* Test side, rogue payload: disables interrupts. */
#include "../rogue.h"

ROGUE("cli")
