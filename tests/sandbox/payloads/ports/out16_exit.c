/* Test side, rogue payload: writes two bytes to the exit port. */
#include "../rogue.h"

ROGUE("outw %ax, $0xf4")
