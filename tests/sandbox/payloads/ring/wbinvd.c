/* Test side, rogue payload: writes the caches back. */
#include "../rogue.h"

ROGUE("wbinvd")
