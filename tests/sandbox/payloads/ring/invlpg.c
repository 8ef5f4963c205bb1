/* Test side, rogue payload: invalidates a page. */
#include "../rogue.h"

ROGUE("invlpg (%rsp)")
