/* Test side, probe: the task register's selector. */
#include "probe.h"

PROBE("str (%1)")
