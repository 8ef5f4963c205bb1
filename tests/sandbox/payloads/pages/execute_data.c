/* Test side, rogue payload: runs code in its .bss. */
#include "../rogue.h"

static volatile uint8_t code[16];

void operation_start(void)
{
    code[0] = 0xc3;
    ((void (*)(void))(uintptr_t)code)();
}
