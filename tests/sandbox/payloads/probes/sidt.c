/* Test side, probe: where the interrupt table is. */
#include "probe.h"

PROBE("sidt (%1)")
