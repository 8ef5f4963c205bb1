/* Test side, rogue payload: writes the PCI configuration port. */
#include "../rogue.h"

ROGUE("movw $0xcf8, %dx\n"
      "outl %eax, %dx")
