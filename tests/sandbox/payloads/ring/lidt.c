/* Test side, rogue payload: loads an interrupt table. */
#include "../rogue.h"

ROGUE("lidt (%rsp)")
