/* Test side, rogue payload: clears the task-switched flag. */
#include "../rogue.h"

ROGUE("clts")
