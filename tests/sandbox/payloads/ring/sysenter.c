/* Test side, rogue payload: calls a kernel by sysenter. */
#include "../rogue.h"

ROGUE("sysenter")
