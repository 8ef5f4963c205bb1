/* Test side, rogue payload: returns from a system call. */
#include "../rogue.h"

ROGUE("sysretq")
