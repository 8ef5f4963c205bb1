/* Test side: libFuzzer target for info and check. Any image: each comes to a verdict, and keeps its word.
 *
 * Inputs are the planner's (sparse.h), of which only the image, the failing read and the limit of work
 * count. PROMISE names what is held.
 */
#include <string.h>

#include "inspect/check.h"
#include "inspect/info.h"
#include "redzones.h"
#include "sparse.h"

#define SECTOR 512u
#define WORK (UINT64_C(1) << 21)
#define SMALL_ROOM (3u * 4096u) /* one window of the least size, of 16-bit counts */
#define LARGE_ROOM (16u * 5u * 4096u)
#define FRAMES_MAX 8192u

/* Workspaces as the guest has them: the counts follow that of a check. */
struct check_memory {
    struct check_workspace workspace;
    uint8_t counts[LARGE_ROOM];
};

/* One run of an operation: what it may do, and what it said. */
struct look {
    const struct sparse *image;
    const uint8_t *memory;
    size_t memory_size;
    uint64_t work_max;
    uint32_t fail_read;
    uint32_t calls;
    uint64_t bytes;
    bool failed;
    uint64_t frames_size;
    uint32_t frames;
    uint64_t digest; /* of all frames */
    uint64_t records[FRAME_CHECK_FINDINGS + 1]; /* bytes by the type of frame */
    uint64_t findings[4];                       /* by what they count as */
    struct verdict verdict;
};

static struct info_workspace info_memory[2];
static struct check_memory check_memory[2];

int LLVMFuzzerInitialize(int *argc, char ***argv);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
    (void)argc, (void)argv;
    for (int i = 0; i < 2; i++) {
        memset(&info_memory[i], i ? 0xff : 1, sizeof(info_memory[i]));
        memset(&check_memory[i], i ? 0xff : 1, sizeof(check_memory[i]));
        poison_image(&info_memory[i].image);
        poison_image(&check_memory[i].workspace.image);
    }
    return 0;
}

static bool read_sparse(void *context, uint32_t phase, const struct io_range *ranges, uint32_t count)
{
    struct look *look = context;
    uint64_t end = (look->image->size + SECTOR - 1) / SECTOR * SECTOR;
    PROMISE(phase == INSTAR_PHASE_PREPARE && count > 0 && count <= IO_RANGES_MAX);
    for (uint32_t i = 0; i < count; i++) {
        const struct io_range *r = &ranges[i];
        PROMISE(r->offset % SECTOR == 0 && r->length % SECTOR == 0 && r->length > 0);
        PROMISE(r->offset < end && r->length <= end - r->offset);
        PROMISE(r->length <= INSTAR_BLOCK_REQUEST_MAX);
        PROMISE(r->buffer >= look->memory &&
                r->buffer + r->length <= look->memory + look->memory_size);
        look->bytes += r->length;
    }
    if (++look->calls == look->fail_read) {
        look->failed = true;
        return false;
    }
    for (uint32_t i = 0; i < count; i++)
        sparse_read(look->image, ranges[i].offset, ranges[i].buffer, ranges[i].length);
    return true;
}

static uint32_t counts_as(uint32_t kind)
{
    return kind == CHECK_CLUSTER_LEAKED       ? 1
           : kind == CHECK_OVERLAP            ? 2
           : kind == CHECK_BLOCK_UNREADABLE   ? 3
                                              : 0;
}

static void take_findings(struct look *look, const uint8_t *payload, uint32_t length)
{
    struct CheckFinding finding;
    PROMISE(length % sizeof(finding) == 0);
    for (uint32_t at = 0; at < length; at += sizeof(finding)) {
        memcpy(&finding, payload + at, sizeof(finding));
        PROMISE(finding.kind >= 1 && finding.kind <= CHECK_KIND_MAX && finding.pad == 0);
        look->findings[counts_as(finding.kind)]++;
    }
}

static void take_frame(void *context, uint32_t type, const void *payload, uint32_t length)
{
    struct look *look = context;
    const uint8_t *bytes = payload;
    PROMISE(type >= FRAME_INFO && type <= FRAME_CHECK_FINDINGS && length <= FRAME_PAYLOAD_MAX);
    PROMISE(++look->frames <= FRAMES_MAX);
    look->records[type] += length;
    for (uint32_t i = 0; i < length; i++)
        look->digest = (look->digest ^ bytes[i]) * 0x9e3779b97f4a7c15 >> 1;
    if (type == FRAME_CHECK_FINDINGS)
        take_findings(look, payload, length);
}

static void check_verdict(const struct look *look, uint32_t told)
{
    PROMISE(look->verdict.count == told && told <= REFUSAL_MAX);
    PROMISE(!look->failed || told > 0);
    PROMISE(look->bytes <= look->work_max && look->calls <= look->work_max / AMEND_DOORBELL_WORK);
    for (uint32_t i = 0; i < told; i++)
        PROMISE(look->verdict.refusals[i].reason != 0);
}

static void ask_info(struct look *look, const struct sparse *image, uint32_t place,
                     struct InfoResult *result)
{
    const struct image_io io = {.context = look, .size = image->size, .read = read_sparse};
    const struct sink sink = {look, take_frame};
    const struct inspection inspection = {&io, look->work_max, &sink, &look->verdict};
    look->memory = (const uint8_t *)&info_memory[place];
    look->memory_size = sizeof(info_memory[place]);
    forget(&info_memory[place], sizeof(info_memory[place]));
    tell_info(&inspection, &info_memory[place], result);
    check_verdict(look, result->refusal_count);
    PROMISE(result->magic == INFO_RESULT_MAGIC && result->reserved == 0);
    PROMISE(look->records[FRAME_CHECK_FINDINGS] == 0);
    PROMISE(look->records[FRAME_INFO_SNAPSHOTS] + look->records[FRAME_INFO_BITMAPS] <=
            INFO_RECORDS_MAX);
    PROMISE(look->records[FRAME_INFO_SNAPSHOTS] >=
            result->snapshots_told * sizeof(struct InfoSnapshot));
    PROMISE(look->records[FRAME_INFO_BITMAPS] >= result->bitmaps_told * sizeof(struct InfoBitmap));
    PROMISE(look->records[FRAME_INFO_LUKS] == (result->crypto_offset ? INFO_LUKS_SIZE : 0));
}

static void ask_check(struct look *look, const struct sparse *image, uint32_t place, uint32_t room,
                      struct CheckResult *result)
{
    const struct image_io io = {.context = look, .size = image->size, .read = read_sparse};
    const struct sink sink = {look, take_frame};
    const struct inspection inspection = {&io, look->work_max, &sink, &look->verdict};
    struct check_memory *memory = &check_memory[place];
    look->memory = (const uint8_t *)memory;
    look->memory_size = sizeof(memory->workspace);
    forget(memory, sizeof(*memory));
    check_image(&inspection, &memory->workspace, room, result);
    check_verdict(look, result->refusal_count);
    PROMISE(result->magic == CHECK_RESULT_MAGIC);
    PROMISE(look->records[FRAME_CHECK_FINDINGS] ==
            result->findings_told * sizeof(struct CheckFinding));
    PROMISE(look->records[FRAME_CHECK_FINDINGS] <= INFO_RECORDS_MAX);
    PROMISE(look->findings[0] <= result->corruptions && look->findings[1] <= result->leaks);
    PROMISE(look->findings[2] <= result->overlaps && look->findings[3] <= result->check_errors);
    PROMISE(result->compressed_clusters <= result->allocated_clusters);
    PROMISE(result->fragmented_clusters <= result->allocated_clusters);
}

/* However large the windows are, the numbers are the same. */
static void check_same_numbers(const struct CheckResult *one, const struct CheckResult *other)
{
    PROMISE(one->check_errors == other->check_errors && one->corruptions == other->corruptions);
    PROMISE(one->leaks == other->leaks && one->overlaps == other->overlaps);
    PROMISE(one->total_clusters == other->total_clusters);
    PROMISE(one->allocated_clusters == other->allocated_clusters);
    PROMISE(one->fragmented_clusters == other->fragmented_clusters);
    PROMISE(one->compressed_clusters == other->compressed_clusters);
    PROMISE(one->image_end_offset == other->image_end_offset);
    PROMISE(one->findings_told == other->findings_told);
}

static bool was_refused(const struct look *look, uint32_t reason)
{
    for (uint32_t i = 0; i < look->verdict.count; i++)
        if (look->verdict.refusals[i].reason == reason)
            return true;
    return false;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static struct sparse image;
    static struct look one, other;
    struct InfoResult info[2];
    struct CheckResult check[2];
    struct input_head head;
    if (!sparse_parse(data, size, &head, &image))
        return 0;
    struct look start = {.image = &image, .work_max = WORK};
    if (head.fail_read & LIMITED)
        start.work_max = (head.fail_read & ~LIMITED) * WORK_UNIT / 4;
    else
        start.fail_read = head.fail_read;

    one = other = start;
    ask_info(&one, &image, 0, &info[0]);
    ask_info(&other, &image, 1, &info[1]);
    PROMISE(memcmp(&info[0], &info[1], sizeof(info[0])) == 0 && one.digest == other.digest);

    one = other = start;
    ask_check(&one, &image, 0, LARGE_ROOM, &check[0]);
    ask_check(&other, &image, 1, LARGE_ROOM, &check[1]);
    PROMISE(memcmp(&check[0], &check[1], sizeof(check[0])) == 0 && one.digest == other.digest);

    other = start;
    ask_check(&other, &image, 1, SMALL_ROOM, &check[1]);
    if (!one.failed && !other.failed && !was_refused(&other, REFUSAL_WORK_LIMIT) &&
        !was_refused(&one, REFUSAL_WORK_LIMIT))
        check_same_numbers(&check[0], &check[1]);
    return 0;
}
