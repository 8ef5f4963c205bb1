/* Test side, rogue payload: calls a kernel by syscall. */
#include "../rogue.h"

ROGUE("syscall")
