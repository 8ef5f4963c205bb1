/* Test side, probe: the flags. */
#include "probe.h"

PROBE("pushfq\n popq %%rax\n movq %%rax, (%1)")
