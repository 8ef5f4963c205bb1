/* Test side, rogue payload: runs a breakpoint. */
#include "../rogue.h"

ROGUE("int3")
