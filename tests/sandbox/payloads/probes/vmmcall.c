/* Test side, probe: a hypercall of the other make. */
#include "probe.h"

PROBE("vmmcall\n movq %%rax, (%1)")
