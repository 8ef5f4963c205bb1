/* Test side, rogue payload: loads a task register. */
#include "../rogue.h"

ROGUE("ltr %ax")
