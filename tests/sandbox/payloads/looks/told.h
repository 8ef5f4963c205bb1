/* Test side: what payloads share that lie about an image which they only look at. */
#ifndef TOLD_H
#define TOLD_H

#include "../rogue.h"

#define READ_ALL                                                                                   \
    (INFO_READ_HEADER | INFO_READ_EXTENSIONS | INFO_READ_SNAPSHOTS | INFO_READ_BITMAPS)
#define ONES UINT64_MAX

SHARED void tell(uint32_t type, const void *payload, uint32_t size)
{
    calls->send_frame(type, payload, size, true);
}

SHARED void tell_text(uint32_t text, uint32_t offset, const char *bytes, uint32_t size)
{
    uint8_t payload[FRAME_PAYLOAD_MAX];
    const uint32_t head[] = {text, offset};
    memcpy(payload, head, sizeof(head));
    memcpy(payload + sizeof(head), bytes, size);
    tell(FRAME_INFO_TEXT, payload, (uint32_t)sizeof(head) + size);
}

/* The name of the image's backing file, which is no lie. */
SHARED void tell_name(void)
{
    tell_text(INFO_TEXT_BACKING_FILE, 0, "base", 4);
}

/* The rest of a result is what the payload says. */
SHARED void end_info(struct InfoResult result)
{
    result.magic = INFO_RESULT_MAGIC;
    tell(FRAME_INFO, &result, sizeof(result));
}

/* A snapshot and a bitmap with names, which come right after them. */
struct told_snapshot {
    struct InfoSnapshot head;
    char id[8];
    char name[16];
};

struct told_bitmap {
    struct InfoBitmap head;
    char name[8];
};

#define SNAPSHOT(...)                                                                              \
    {                                                                                              \
        .head = {.id_size = 8, .name_size = 16, __VA_ARGS__}, .id = "1", .name = "one"             \
    }
#define BITMAP(bits)                                                                               \
    {                                                                                              \
        .head = {.flags = UINT32_MAX, .granularity_bits = (bits), .name_size = 8}, .name = "b"     \
    }

SHARED void end_check(struct CheckResult result)
{
    result.magic = CHECK_RESULT_MAGIC;
    tell(FRAME_CHECK, &result, sizeof(result));
}

#endif
