/* Test side, rogue payload: never ends. */
#include "../rogue.h"

ROGUE("1: jmp 1b")
