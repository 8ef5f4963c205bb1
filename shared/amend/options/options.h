/* Pure, either side: all options of an amend. */
#ifndef INSTAR_OPTIONS_H
#define INSTAR_OPTIONS_H

#include "amend/options/option.h"

/* In the order in which they are resolved, checked and staged; the last one is null. */
extern const struct option *const all_options[];

#endif
