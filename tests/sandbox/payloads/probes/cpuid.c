/* Test side, probe: the processor's vendor. */
#include "probe.h"

PROBE("cpuid\n movl %%ebx, (%1)")
