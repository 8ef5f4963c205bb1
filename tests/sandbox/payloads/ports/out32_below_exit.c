/* Test side, rogue payload: writes four bytes, the last to the exit port. */
#include "../rogue.h"

ROGUE("outl %eax, $0xf1")
