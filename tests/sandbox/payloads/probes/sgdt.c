/* Test side, probe: where the descriptor table is. */
#include "probe.h"

PROBE("sgdt (%1)")
