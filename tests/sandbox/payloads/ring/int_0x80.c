/* Test side, rogue payload: calls a Linux kernel by interrupt. */
#include "../rogue.h"

ROGUE("int $0x80")
