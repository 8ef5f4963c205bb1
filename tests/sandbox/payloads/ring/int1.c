/* Test side, rogue payload: runs a debug interrupt. */
#include "../rogue.h"

ROGUE(".byte 0xf1")
