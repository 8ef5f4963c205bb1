/* Pure, either side: all options of an amend, and their records in the ABI. */
#include "amend/options/options.h"

#include <string.h>

#include "bits.h"

/* Each is all that its file offers. */
extern const struct option compat_option, lazy_refcounts_option;

const struct option *const all_options[] = {
    &compat_option,
    &lazy_refcounts_option, /* needs to know the version */
    0,
};

static const struct option *find_option(uint32_t key)
{
    const struct option *const *option = all_options;
    while (*option && (*option)->key != key)
        option++;
    return *option;
}

/* Take the value of a record. False: it is none of this kind. */
static bool read_value(uint32_t kind, const uint8_t *bytes, uint32_t length,
                       struct option_value *value)
{
    *value = (struct option_value){.given = true, .bytes = bytes, .length = length};
    if (kind == OPTION_KIND_BYTES) {
        for (uint32_t i = 0; i < length; i++)
            if (bytes[i] == 0)
                return false;
        return length <= OPTION_BYTES_MAX;
    }
    if (length != sizeof(value->number))
        return false;
    memcpy(&value->number, bytes, sizeof(value->number));
    return kind == OPTION_KIND_NUMBER || value->number <= 1;
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
            !read_value(record.kind, records + at, record.length, &asked->values[record.key]))
            return false;
        at += (uint32_t)padded;
    }
    return true;
}

uint32_t write_options(const struct target *target, uint8_t records[FRAME_PAYLOAD_MAX])
{
    uint32_t at = 0;
    for (uint32_t key = 1; key <= OPTION_KEY_MAX; key++) {
        const struct option *option = find_option(key);
        if (!option)
            continue; /* a key that only a later planner knows */
        struct option_value value = option->tell(target);
        bool plain = option->kind != OPTION_KIND_BYTES;
        struct OptionRecord record = {
            .key = (uint16_t)key,
            .kind = (uint16_t)option->kind,
            .length = plain ? (uint32_t)sizeof(value.number) : value.length,
        };
        uint32_t padded = (uint32_t)round_up(record.length, 8);
        memcpy(records + at, &record, sizeof(record));
        at += (uint32_t)sizeof(record);
        memset(records + at, 0, padded);
        memcpy(records + at, plain ? (const uint8_t *)&value.number : value.bytes, record.length);
        at += padded;
    }
    return at;
}
