/* Test side, probe: the machine status word. */
#include "probe.h"

PROBE("smsw (%1)")
