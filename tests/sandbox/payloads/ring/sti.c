/* Test side, rogue payload: enables interrupts. */
#include "../rogue.h"

ROGUE("sti")
