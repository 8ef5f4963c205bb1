/* Test side, rogue payload: writes where a machine has its local APIC. */
#include "../rogue.h"

ROGUE_AT(0xfee00300, "movb %al, (%rax)")
