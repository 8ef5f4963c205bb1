/* Pure, either side: the option backing_file: the backing file's name, which nobody opens; together
 * with backing_fmt. Without leave to change it, what is given must be what is there.
 */
#include "amend/options/text.h"
#include "qcow2/extensions.h"
#include "qcow2/header.h"
#include "qcow2/qcow2.h"

/* Have the name that the image has. False: refused, it cannot be read. */
static bool read_name(struct qcow2_image *image, struct header_text *name)
{
    const struct qcow2_header *h = &image->header;
    *name = (struct header_text){0, 0};
    if (!h->backing_file_offset)
        return true;
    if (!load_header(image, h->backing_file_offset + h->backing_file_size))
        return false;
    *name = text_of(image, (uint32_t)h->backing_file_offset, h->backing_file_size);
    return true;
}

static void resolve(struct amendment *amendment, const struct option_value *asked)
{
    struct target_text *target = &amendment->target.backing_file;
    struct header_text name;
    if (asked->given && read_name(&amendment->image, &name))
        ask_text(&amendment->image, asked, name, target);
    else if (asked->given) /* refused by now: no more is said of it */
        *target = (struct target_text){true, false, asked->bytes, asked->length};
    amendment->image.gets_backing_file = target->length != 0;
}

/* As qemu compares them: what is not given stands for none, and none is not an empty one. */
static bool is_confirmed(const struct amendment *amendment)
{
    const struct qcow2_header *h = &amendment->image.header;
    const struct target_text *name = &amendment->target.backing_file;
    const struct target_text *format = &amendment->target.backing_format;
    return !name->changed && !format->changed && name->given == (h->backing_file_offset != 0) &&
           format->given == (h->backing_format.offset != 0);
}

/* Why the backing file cannot become what it would be; 0 if it can. */
static uint32_t find_fault(const struct amendment *amendment)
{
    const struct qcow2_header *h = &amendment->image.header;
    const struct target *target = &amendment->target;
    const struct target_text *name = &target->backing_file, *format = &target->backing_format;
    bool has_name = name->given ? name->length : h->backing_file_size;
    bool has_format = format->given ? format->length : h->backing_format.length;
    if (!amendment->may_change_backing)
        return is_confirmed(amendment) ? 0 : REFUSAL_BACKING_CHANGE;
    if (!name->changed && !format->changed)
        return 0;
    if (!has_name)
        return has_format ? REFUSAL_BACKING_FILE_MISSING : 0;
    if (!has_format) /* whoever guesses it may take the disk's contents for a header */
        return REFUSAL_BACKING_FMT_MISSING;
    /* A raw data file is the whole disk, whatever a backing file has. */
    return target->autoclear_features & QCOW2_AUTOCLEAR_DATA_FILE_RAW ? REFUSAL_BACKING_RAW : 0;
}

static void check(struct amendment *amendment)
{
    const struct target *target = &amendment->target;
    bool given = target->backing_file.given || target->backing_format.given;
    uint32_t fault = given ? find_fault(amendment) : 0;
    if (fault)
        refuse(amendment->image.file.verdict, fault, AMEND_ERROR_BACKING_FILE, 0, 0, 0);
}

const struct option backing_file_option = {
    .key = OPTION_BACKING_FILE,
    .kind = OPTION_KIND_BYTES,
    .most = QCOW2_BACKING_FILE_SIZE_MAX,
    .resolve = resolve,
    .check = check,
};
