/* Test side, rogue payload: halts the processor. */
#include "../rogue.h"

ROGUE("hlt")
