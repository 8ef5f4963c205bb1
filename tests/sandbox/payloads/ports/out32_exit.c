/* Test side, rogue payload: writes four bytes to the exit port. */
#include "../rogue.h"

ROGUE("outl %eax, $0xf4")
