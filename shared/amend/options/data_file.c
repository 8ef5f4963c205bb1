/* Pure, either side: the option data_file: the name of the external data file, which nobody opens. */
#include "amend/options/text.h"
#include "qcow2/qcow2.h"

static void resolve(struct amendment *amendment, const struct option_value *asked)
{
    const struct qcow2_header *h = &amendment->image.header;
    ask_text(&amendment->image, asked, h->data_file, &amendment->target.data_file);
}

static void check(struct amendment *amendment)
{
    bool has_data_file =
        amendment->image.header.incompatible_features & QCOW2_INCOMPATIBLE_DATA_FILE;
    if (amendment->target.data_file.given && !has_data_file)
        refuse(amendment->image.file.verdict, REFUSAL_NO_DATA_FILE, AMEND_ERROR_DATA_FILE, 0, 0, 0);
}

const struct option data_file_option = {
    .key = OPTION_DATA_FILE,
    .kind = OPTION_KIND_BYTES,
    .most = OPTION_BYTES_MAX,
    .resolve = resolve,
    .check = check,
};
