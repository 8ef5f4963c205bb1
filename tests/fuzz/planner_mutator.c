/* Test side: libFuzzer's mutations for planner inputs: fields, extensions, names, table entries.
 *
 * All edits are made on the encoded input (sparse.h), in place or by moving what lies behind.
 */
#include <string.h>

#include "qcow2/bytes.h"
#include "sparse.h"

size_t LLVMFuzzerMutate(uint8_t *data, size_t size, size_t max_size);
size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t max_size, unsigned seed);
const char *__asan_default_options(void);

/* libFuzzer frees a copy of each input: what is kept of them costs memory and speed. */
const char *__asan_default_options(void)
{
    return "quarantine_size_mb=8";
}

struct input {
    uint8_t *data;
    size_t size, max_size;
    uint32_t random;
    uint32_t count;
    size_t at[CHUNKS_MAX];     /* of the chunk's bytes */
    size_t length[CHUNKS_MAX]; /* as far as they are there */
};

static uint32_t draw(struct input *in, uint32_t below)
{
    in->random ^= in->random << 13;
    in->random ^= in->random >> 17;
    in->random ^= in->random << 5;
    return below ? in->random % below : 0;
}

static void locate(struct input *in)
{
    in->count = 0;
    for (size_t at = sizeof(struct input_head);
         at + sizeof(struct chunk_head) <= in->size && in->count < CHUNKS_MAX;) {
        size_t length = (size_t)load_le(in->data + at + 8, 2);
        at += sizeof(struct chunk_head);
        length = length < in->size - at ? length : in->size - at;
        in->at[in->count] = at;
        in->length[in->count++] = length;
        at += length;
    }
}

static void store_le(uint8_t *p, uint64_t value, unsigned size)
{
    for (unsigned i = 0; i < size; i++)
        p[i] = (uint8_t)(value >> 8 * i);
}

static void store_be(uint8_t *p, uint64_t value, unsigned size)
{
    for (unsigned i = 0; i < size; i++)
        p[i] = (uint8_t)(value >> 8 * (size - 1 - i));
}

static uint64_t chunk_offset(const struct input *in, uint32_t chunk)
{
    return load_le(in->data + in->at[chunk] - sizeof(struct chunk_head), 8);
}

static uint64_t cluster_size(const struct input *in)
{
    uint32_t bits = in->count && in->length[0] >= 24 ? load_be32(in->data + in->at[0] + 20) : 16;
    return UINT64_C(1) << (bits <= 21 ? bits : 16);
}

/* A number that may mean something: a place, a size, a limit, and what lies next to it. */
static uint64_t interesting(struct input *in)
{
    static const uint64_t limits[] = {
        0, 1, 2, 3, 4, 6, 7, 8, 15, 16, 24, 40, 48, 56, 72, 80, 104, 112, 120, 384, 392, 400, 424,
        432, 440, 496, 504, 512, 520, 1023, 1024, 4088, 4096, 4104, 0xfff8, 0x10000, 0x10008,
        65535, 65536, 0x20000, 0x100000, 0x200000, 0x2000000, 0xffffffff, 0x100000000,
        UINT64_C(1) << 62, INT64_MAX, UINT64_C(1) << 63, UINT64_MAX,
    };
    uint64_t value, cluster = cluster_size(in);
    switch (draw(in, 6)) {
    case 0: return UINT64_C(1) << draw(in, 64);
    case 1: value = cluster * draw(in, 16); break;
    case 2: value = in->count ? chunk_offset(in, draw(in, in->count)) : 0; break;
    case 3: value = load_le(in->data + 4, 8); break;
    default: value = limits[draw(in, sizeof(limits) / sizeof(*limits))]; break;
    }
    static const int8_t near[] = {0, 0, 0, 0, 1, -1, 8, -8, 7};
    return value + (uint64_t)(int64_t)near[draw(in, sizeof(near))];
}

static void edit_header_field(struct input *in)
{
    static const uint8_t fields[][2] = {
        {4, 4},  {8, 8},  {8, 8},  {16, 4}, {16, 4}, {20, 4}, {24, 8},  {32, 4},  {36, 4},  {40, 8},
        {48, 8}, {56, 4}, {60, 4}, {64, 8}, {72, 8}, {80, 8}, {88, 8}, {96, 4}, {100, 4}, {104, 1},
    };
    const uint8_t *field = fields[draw(in, sizeof(fields) / sizeof(*fields))];
    if (!in->count || in->length[0] < (size_t)field[0] + field[1])
        return;
    uint8_t *p = in->data + in->at[0] + field[0];
    if (field[0] == 4)
        store_be(p, 2 + draw(in, 2), 4);
    else if (field[0] == 20)
        store_be(p, 9 + draw(in, 13), 4);
    else if ((field[0] == 36 || field[0] == 60) && draw(in, 8))
        store_be(p, draw(in, 20), 4);
    else if (field[0] >= 72 && field[0] < 96 && draw(in, 2))
        p[7] ^= (uint8_t)(1u << draw(in, 6));
    else
        store_be(p, interesting(in), field[1]);
}

static void edit_request(struct input *in)
{
    switch (draw(in, 8)) {
    case 0: in->data[1] = (uint8_t)draw(in, 256); break;
    case 1: in->data[1] &= (uint8_t)~MODE_MISMATCH; break;
    case 2: in->data[2] = (uint8_t)draw(in, 12); break;
    case 3: in->data[2] = 0; break;
    case 4: store_le(in->data + 4, interesting(in), 8); break;
    case 5: store_le(in->data + 4, cluster_size(in) * draw(in, 64), 8); break;
    default: in->data[0] = (uint8_t)draw(in, 64); break;
    }
}

/* Where records are put together. */
struct output {
    uint8_t bytes[2600];
    size_t size;
};

static void put_record(struct output *out, uint16_t key, uint16_t kind, const uint8_t *bytes,
                       uint32_t length)
{
    uint8_t *p = out->bytes + out->size;
    store_le(p, key, 2);
    store_le(p + 2, kind, 2);
    store_le(p + 4, length, 4);
    memcpy(p + 8, bytes, length);
    memset(p + 8 + length, 0, (8 - length % 8) % 8);
    out->size += 8 + (length + 7) / 8 * 8;
}

static void put_number(struct output *out, uint16_t key, uint16_t kind, uint64_t value)
{
    uint8_t bytes[8];
    store_le(bytes, value, 8);
    put_record(out, key, kind, bytes, 8);
}

/* A name of the seeds, or one of any length. */
static void put_text(struct input *in, struct output *out, uint16_t key, uint32_t most)
{
    static const char *const known[] = {"", "base.qcow2", "qcow2", "raw", "next", "d"};
    uint8_t bytes[1100];
    const char *name = known[draw(in, sizeof(known) / sizeof(*known))];
    uint32_t length = (uint32_t)strlen(name);
    memcpy(bytes, name, length);
    if (draw(in, 2)) {
        length = draw(in, 4) ? draw(in, 40) : draw(in, sizeof(bytes));
        memset(bytes, 'a' + (int)draw(in, 26), length);
    }
    put_record(out, key, OPTION_KIND_BYTES, bytes, length < most ? length : most);
}

/* A size near that of the disk, near a border of a cluster or table, or any. */
static uint64_t draw_size(struct input *in)
{
    uint64_t cluster = cluster_size(in), span = cluster * (cluster > 8 ? cluster / 8 : 1), size = 1 << 20;
    if (in->count && in->length[0] >= 32)
        size = load_be64(in->data + in->at[0] + 24);
    switch (draw(in, 6)) {
    case 0: size += (uint64_t)draw(in, 9) * 512 - 4 * 512; break;
    case 1: size = (size / cluster + draw(in, 5) - 2) * cluster + draw(in, 3) * 512; break;
    case 2: size = (size / span + draw(in, 4)) * span + (uint64_t)draw(in, 3) * 512 - 512; break;
    case 3: size = (uint64_t)draw(in, 64) * cluster; break;
    case 4: size = (uint64_t)(1 + draw(in, 64)) * 512; break;
    default: size = interesting(in); break;
    }
    return draw(in, 16) ? size & ~UINT64_C(511) & INT64_MAX : size;
}

/* Ask for something else besides compat and lazy refcounts. */
static void edit_options(struct input *in)
{
    static const uint32_t flags[] = {AMEND_FLAG_DROP_BITMAPS, AMEND_FLAG_SHRINK,
                                     AMEND_FLAG_CHANGE_BACKING, AMEND_FLAG_KEYS};
    struct output out = {.size = sizeof(struct request_head)};
    uint32_t allowed = 0, last = in->count ? in->count - 1 : 0;
    for (unsigned i = 0; i < sizeof(flags) / sizeof(*flags); i++)
        allowed |= draw(in, i == 3 ? 16 : 3) ? (i == 3 ? 0 : flags[i]) : (i == 3 ? flags[i] : 0);
    store_le(out.bytes, allowed, 4);
    store_le(out.bytes + 4, draw(in, 2) ? UINT64_MAX : interesting(in), 8);
    if (draw(in, 3) == 0) {
        put_number(&out, OPTION_SIZE, OPTION_KIND_NUMBER, draw_size(in));
        in->data[0] &= (uint8_t)~ASKED;
    } else {
        if (draw(in, 3) == 0)
            put_text(in, &out, OPTION_BACKING_FILE, 1023);
        if (draw(in, 3) == 0)
            put_text(in, &out, OPTION_BACKING_FMT, 15);
        if (draw(in, 4) == 0)
            put_text(in, &out, OPTION_DATA_FILE, 1100);
        if (draw(in, 4) == 0)
            put_number(&out, OPTION_DATA_FILE_RAW, OPTION_KIND_FLAG, draw(in, 4) == 0);
        if (draw(in, 2))
            put_number(&out, OPTION_REFCOUNT_BITS, OPTION_KIND_NUMBER, UINT64_C(1) << draw(in, 7));
    }
    if (in->count && chunk_offset(in, last) == REQUEST_OFFSET)
        in->size = in->at[last] - sizeof(struct chunk_head); /* it gives way to the new one */
    if (in->count == CHUNKS_MAX || in->size + sizeof(struct chunk_head) + out.size > in->max_size)
        return;
    store_le(in->data + in->size, REQUEST_OFFSET, 8);
    store_le(in->data + in->size + 8, out.size, 2);
    memcpy(in->data + in->size + sizeof(struct chunk_head), out.bytes, out.size);
    in->size += sizeof(struct chunk_head) + out.size;
}

/* Make room for (or, if negative, take away) bytes at `at` of a chunk. False: no room. */
static bool shift(struct input *in, uint32_t chunk, size_t at, int change)
{
    uint8_t *p = in->data + in->at[chunk] + at;
    size_t gone = change < 0 ? (size_t)-change : 0, more = change > 0 ? (size_t)change : 0;
    size_t behind = in->size - (in->at[chunk] + at);
    if (at + gone > in->length[chunk] || in->size + more - gone > in->max_size ||
        in->length[chunk] + more > 0xffff)
        return false;
    memmove(p + more, p + gone, behind - gone);
    memset(p, 0, more);
    in->size = in->size + more - gone;
    store_le(in->data + in->at[chunk] - 2, in->length[chunk] + more - gone, 2);
    return true;
}

/* A random extension border; and the size of the extension there, 0 for the end. */
static size_t border(struct input *in, size_t *size)
{
    const uint8_t *raw = in->data + in->at[0];
    size_t at = load_be32(raw + 4) == 2 || in->length[0] < 104 ? 72 : load_be32(raw + 100);
    for (uint32_t skip = draw(in, 5);; skip--) {
        *size = 0;
        if (at >= in->length[0] || in->length[0] - at < 8)
            return at;
        uint64_t length = load_be32(raw + at + 4);
        if (load_be32(raw + at) == 0)
            return at;
        *size = (size_t)(8 + (length + 7) / 8 * 8);
        if (skip == 0 || *size > in->length[0] - at)
            return at;
        at += *size;
    }
}

static void edit_extension(struct input *in)
{
    static const uint32_t types[] = {0xe2792aca, 0x6803f857, 0x23852875, 0x0537be77,
                                     0x44415441, 0x11111111, 0x22222222, 0};
    size_t size, at;
    if (!in->count || in->length[0] < 72)
        return;
    at = border(in, &size);
    if (draw(in, 3) == 0 && size && size <= in->length[0] - at) {
        shift(in, 0, at, -(int)size);
        return;
    }
    if (draw(in, 3) == 0 && at + 8 <= in->length[0]) {
        uint64_t length = interesting(in);
        store_be(in->data + in->at[0] + at + 4, draw(in, 2) ? length : length % 1024, 4);
        return;
    }
    uint32_t length = draw(in, 4) ? draw(in, 33) : draw(in, 500);
    uint32_t type = draw(in, 8) ? types[draw(in, 8)] : in->random;
    if (type == 0x23852875)
        length = 24;
    else if (type == 0x0537be77 || (type == 0xe2792aca && length > 15))
        length = draw(in, 16) + 1;
    if (at > in->length[0] || !shift(in, 0, at, (int)(8 + (length + 7) / 8 * 8)))
        return;
    store_be(in->data + in->at[0] + at, type, 4);
    store_be(in->data + in->at[0] + at + 4, length, 4);
}

/* Put a table entry, or any eight bytes of a chunk, to something that may be one. */
static void edit_entry(struct input *in)
{
    uint32_t chunk = in->count ? draw(in, in->count) : 0;
    if (!in->count || in->length[chunk] < 8)
        return;
    size_t at = draw(in, (uint32_t)(in->length[chunk] / 4 - 1)) * 4;
    uint8_t *p = in->data + in->at[chunk] + at;
    switch (draw(in, 5)) {
    case 0: p[7] ^= 1; break;
    case 1: p[0] ^= 0x40; break;
    case 2: store_be(p, interesting(in), 4); break;
    case 3: store_be(p, draw(in, 64), 2); break;
    default: store_be(p, interesting(in) | (draw(in, 2) ? UINT64_C(1) << 63 : 0), 8); break;
    }
}

/* Move a chunk, resize it, add one or drop one. */
static void edit_chunk(struct input *in)
{
    uint32_t chunk = in->count ? draw(in, in->count) : 0;
    uint8_t *head = in->data + (in->count ? in->at[chunk] - sizeof(struct chunk_head) : 0);
    if (!in->count)
        return;
    switch (draw(in, 4)) {
    case 0: store_le(head, interesting(in), 8); break;
    case 1: shift(in, chunk, draw(in, (uint32_t)in->length[chunk] + 1), (int)draw(in, 64)); break;
    case 2: shift(in, chunk, draw(in, (uint32_t)in->length[chunk] + 1), -(int)draw(in, 64)); break;
    default:
        if (in->count == CHUNKS_MAX || in->size + 48 > in->max_size)
            return;
        memset(in->data + in->size, 0, 48);
        store_le(in->data + in->size, interesting(in), 8);
        store_le(in->data + in->size + 8, 48 - sizeof(struct chunk_head), 2);
        in->size += 48;
    }
}

size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t max_size, unsigned seed)
{
    static void (*const edits[])(struct input *) = {
        edit_header_field, edit_header_field, edit_request, edit_options,
        edit_extension,    edit_entry,        edit_chunk,
    };
    struct input in = {.data = data, .size = size, .max_size = max_size, .random = seed | 1};
    for (int i = 0; i < 8; i++)
        draw(&in, 2);
    if (size < sizeof(struct input_head) || draw(&in, 5) == 0)
        return LLVMFuzzerMutate(data, size, max_size);
    for (uint32_t rounds = 1 + draw(&in, 4); rounds; rounds--) {
        locate(&in);
        edits[draw(&in, sizeof(edits) / sizeof(*edits))](&in);
    }
    return in.size;
}
