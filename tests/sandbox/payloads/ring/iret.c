/* Test side, rogue payload: returns from an interrupt to ring 0. */
#include "../rogue.h"

ROGUE("pushq $0\n"
      "pushq $0\n"
      "pushq $2\n"
      "pushq $8\n"
      "pushq $0x19000\n"
      "iretq")
