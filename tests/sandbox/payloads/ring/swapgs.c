/* Test side, rogue payload: swaps the base of GS. */
#include "../rogue.h"

ROGUE("swapgs")
