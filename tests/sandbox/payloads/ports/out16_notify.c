/* Test side, rogue payload: writes two bytes to the doorbell. */
#include "../rogue.h"

ROGUE("outw %ax, $0xe0")
