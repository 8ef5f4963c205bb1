/* Test side, probe: the code segment's selector. */
#include "probe.h"

PROBE("movw %%cs, %%ax\n movw %%ax, (%1)\n movw %%ss, %%ax\n movw %%ax, 2(%1)")
