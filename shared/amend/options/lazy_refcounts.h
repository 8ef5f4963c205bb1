/* Pure, either side: the option lazy_refcounts: whether refcounts may be written late. */
#ifndef INSTAR_LAZY_REFCOUNTS_H
#define INSTAR_LAZY_REFCOUNTS_H

#include "amend/options/option.h"

extern const struct option lazy_refcounts_option;

#endif
