/* Test side, rogue payload: loads the machine status word. */
#include "../rogue.h"

ROGUE("lmsw %ax")
