/* Test side, rogue payload: runs an undefined instruction. */
#include "../rogue.h"

ROGUE("ud2")
