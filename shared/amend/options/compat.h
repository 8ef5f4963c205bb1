/* Pure, either side: the option compat: the version of the image. */
#ifndef INSTAR_COMPAT_H
#define INSTAR_COMPAT_H

#include "amend/options/option.h"

extern const struct option compat_option;

#endif
