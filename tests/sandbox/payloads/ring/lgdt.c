/* Test side, rogue payload: loads a descriptor table. */
#include "../rogue.h"

ROGUE("lgdt (%rsp)")
