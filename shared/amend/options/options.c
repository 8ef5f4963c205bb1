/* Pure, either side: all options of an amend. */
#include "amend/options/options.h"

#include "amend/options/compat.h"
#include "amend/options/lazy_refcounts.h"

const struct option *const all_options[] = {
    &compat_option,
    &lazy_refcounts_option, /* needs to know the version */
    0,
};
