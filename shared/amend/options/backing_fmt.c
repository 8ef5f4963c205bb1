/* Pure, either side: the option backing_fmt: the backing file's format; backing_file.c judges both. */
#include "amend/options/text.h"
#include "qcow2/qcow2.h"

static void resolve(struct amendment *amendment, const struct option_value *asked)
{
    static const struct option_value none = {.given = true, .bytes = (const uint8_t *)""};
    const struct target_text *name = &amendment->target.backing_file;
    /* Without a backing file there is nothing to have a format. */
    bool goes = amendment->may_change_backing && name->given && name->length == 0;
    ask_text(&amendment->image, goes && !asked->given ? &none : asked,
             amendment->image.header.backing_format, &amendment->target.backing_format);
}

const struct option backing_fmt_option = {
    .key = OPTION_BACKING_FMT,
    .kind = OPTION_KIND_BYTES,
    .most = QCOW2_BACKING_FORMAT_MAX,
    .resolve = resolve,
};
