/* Test side, rogue payload: resets the machine by the keyboard controller. */
#include "../rogue.h"

ROGUE("movb $0xfe, %al\n"
      "outb %al, $0x64")
