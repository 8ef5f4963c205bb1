/* Test side, rogue payload: loads a local descriptor table. */
#include "../rogue.h"

ROGUE("lldt %ax")
