/* Pure, either side: the option data_file_raw: an autoclear feature bit, which can only be cleared. */
#include "amend/options/option.h"
#include "qcow2/qcow2.h"

static void resolve(struct amendment *amendment, const struct option_value *asked)
{
    uint64_t bit = QCOW2_AUTOCLEAR_DATA_FILE_RAW;
    if (!asked->given)
        return;
    if (!asked->number)
        amendment->target.autoclear_features &= ~bit;
    else if (!(amendment->image.header.autoclear_features & bit))
        /* The data file may hold the disk in any order. */
        refuse(amendment->image.file.verdict, REFUSAL_DATA_FILE_RAW, AMEND_ERROR_DATA_FILE, 0, 0,
               0);
}

static struct option_value tell(const struct target *target)
{
    return (struct option_value){
        .given = true,
        .number = target->autoclear_features & QCOW2_AUTOCLEAR_DATA_FILE_RAW ? 1 : 0,
    };
}

const struct option data_file_raw_option = {
    .key = OPTION_DATA_FILE_RAW,
    .kind = OPTION_KIND_FLAG,
    .resolve = resolve,
    .tell = tell,
};
