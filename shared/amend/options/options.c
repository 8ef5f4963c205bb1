/* Pure, either side: all options of an amend, and their records in the ABI. */
#include "amend/options/options.h"

#include <string.h>

#include "bits.h"

/* Each is all that its file offers. */
extern const struct option compat_option, lazy_refcounts_option, data_file_raw_option,
    data_file_option, backing_file_option, backing_fmt_option, refcount_bits_option, size_option;

const struct option *const all_options[] = {
    &compat_option,
    &lazy_refcounts_option, /* needs to know the version */
    &data_file_raw_option,
    &data_file_option,
    &backing_file_option, /* needs to know whether the data file is raw */
    &backing_fmt_option,
    &refcount_bits_option, /* needs to know the version */
    &size_option,
    0,
};

static const struct option *find_option(uint32_t key)
{
    const struct option *const *option = all_options;
    while (*option && (*option)->key != key)
        option++;
    return *option;
}

/* Take the value of a record. False: the option has none like it. */
static bool read_value(const struct option *option, const uint8_t *bytes, uint32_t length,
                       struct option_value *value)
{
    *value = (struct option_value){.given = true, .bytes = bytes, .length = length};
    if (option->kind == OPTION_KIND_BYTES) {
        for (uint32_t i = 0; i < length; i++)
            if (bytes[i] == 0)
                return false;
        return length <= option->most;
    }
    if (length != sizeof(value->number))
        return false;
    memcpy(&value->number, bytes, sizeof(value->number));
    return option->kind == OPTION_KIND_NUMBER || value->number <= 1;
}

bool read_options(const uint8_t *records, uint32_t size, struct asked_options *asked)
{
    struct OptionRecord record = {0};
    uint32_t last = 0;
    memset(asked, 0, sizeof(*asked));
    for (uint32_t at = 0; at < size; last = record.key) {
        if (size - at < sizeof(record))
            return false;
        memcpy(&record, records + at, sizeof(record));
        at += (uint32_t)sizeof(record);
        const struct option *option = find_option(record.key);
        uint64_t padded = round_up(record.length, 8);
        if (!option || record.key <= last || record.kind != option->kind || padded > size - at ||
            !read_value(option, records + at, record.length, &asked->values[record.key]))
            return false;
        at += (uint32_t)padded;
    }
    return true;
}

bool is_one_step(const struct asked_options *asked)
{
    uint32_t given = 0;
    for (uint32_t key = 1; key <= OPTION_KEY_MAX; key++)
        given += asked->values[key].given;
    return given == 1 || !asked->values[OPTION_SIZE].given;
}

uint32_t write_options(const struct target *target, uint8_t records[FRAME_PAYLOAD_MAX])
{
    uint32_t at = 0;
    for (uint32_t key = 1; key <= OPTION_KEY_MAX; key++) {
        const struct option *option = find_option(key);
        if (!option || !option->tell)
            continue; /* a key that only a later planner knows, or bytes */
        uint64_t value = option->tell(target).number;
        struct OptionRecord record = {
            .key = (uint16_t)key,
            .kind = (uint16_t)option->kind,
            .length = (uint32_t)sizeof(value),
        };
        memcpy(records + at, &record, sizeof(record));
        memcpy(records + at + sizeof(record), &value, sizeof(value));
        at += (uint32_t)(sizeof(record) + sizeof(value));
    }
    return at;
}
