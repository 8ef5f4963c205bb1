/* Test side, probe: the local descriptor table's selector. */
#include "probe.h"

PROBE("sldt (%1)")
