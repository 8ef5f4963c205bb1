/* Test side, rogue payload: single-steps itself. */
#include "../rogue.h"

ROGUE("pushfq\n"
      "orl $0x100, (%rsp)\n"
      "popfq\n"
      "nop\n"
      "nop")
