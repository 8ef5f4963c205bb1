/* Pure, either side: the option lazy_refcounts: a compatible feature bit of version 3. */
#include "amend/options/option.h"
#include "qcow2/qcow2.h"

static void resolve(struct amendment *amendment, const struct option_value *asked)
{
    struct target *target = &amendment->target;
    uint64_t bit = QCOW2_COMPATIBLE_LAZY_REFCOUNTS;
    if (asked->given)
        target->compatible_features =
            (target->compatible_features & ~bit) | (asked->number ? bit : 0);
    if (target->version == 2 && target->compatible_features) {
        refuse(amendment->image.file.verdict, REFUSAL_LAZY_NEEDS_V3, AMEND_ERROR_LAZY_NEEDS_V3, 0,
               0, 0);
        target->compatible_features = 0;
    }
}

static struct option_value tell(const struct target *target)
{
    return (struct option_value){
        .given = true,
        .number = target->compatible_features & QCOW2_COMPATIBLE_LAZY_REFCOUNTS ? 1 : 0,
    };
}

const struct option lazy_refcounts_option = {
    .key = OPTION_LAZY_REFCOUNTS,
    .kind = OPTION_KIND_FLAG,
    .resolve = resolve,
    .tell = tell,
};
