/* Test side, rogue payload: reads where the page tables are. */
#include "../rogue.h"

ROGUE("movq %cr3, %rax")
