/* Test side, probe: the base of FS. */
#include "probe.h"

PROBE("rdfsbase %%rax\n movq %%rax, (%1)")
