/* Pure, either side: reads the persistent bitmaps of the untrusted image ("Bitmaps extension"). */
#include "qcow2/bitmaps.h"

#include <string.h>

#include "bits.h"
#include "qcow2/bytes.h"
#include "qcow2/qcow2.h"

/* "Bitmap directory": the type of dirty tracking bitmaps, and flags; the bounds are qemu's. */
#define TYPE_DIRTY_TRACKING 1u
#define FLAGS_KNOWN 3u
#define GRANULARITY_BITS_MIN 9u
#define GRANULARITY_BITS_MAX 31u
#define SIZE_MAX_BYTES (UINT64_C(1) << 29)

/* Cost of coming across the name of another bitmap, in bytes read. */
#define NAME_WORK 16u
#define SLOTS_PER_NAME 2u
/* FNV-1a. Whoever makes names with one hash has his own image called unsound. */
#define HASH_START UINT64_C(0xcbf29ce484222325)
#define HASH_PRIME UINT64_C(0x100000001b3)

_Static_assert(SLOTS_PER_NAME * QCOW2_BITMAPS_MAX * sizeof(uint64_t) <= BATCH_SIZE,
               "there is memory for all slots");

bool refuse_bitmaps(struct qcow2_image *image)
{
    const struct qcow2_header *h = &image->header;
    return refuse(image->file.verdict, REFUSAL_BITMAPS, AMEND_ERROR_PARSE_FAILED,
                  h->bitmap_directory_offset, h->nb_bitmaps, 0);
}

bool has_sound_directory(const struct qcow2_image *image)
{
    const struct qcow2_header *h = &image->header;
    return h->bitmap_directory_size &&
           inside_image(image, h->bitmap_directory_offset, h->bitmap_directory_size);
}

/* Read the entry at byte `at` of the directory through the window. Null: refused, or not sound. */
static const uint8_t *read_bitmap(struct qcow2_image *image, uint64_t at, struct bitmap *bitmap)
{
    const struct qcow2_header *h = &image->header;
    uint64_t left = h->bitmap_directory_size - at;
    if (at > h->bitmap_directory_size || left < QCOW2_BITMAP_HEADER_SIZE)
        return 0;
    uint32_t most = QCOW2_BITMAP_HEADER_SIZE + QCOW2_BITMAP_NAME_MAX;
    const uint8_t *raw =
        look(&image->file, &image->structures, h->bitmap_directory_offset + at, most);
    if (!raw)
        return 0;
    uint64_t extra = load_be32(raw + QCOW2_BITMAP_EXTRA_DATA_SIZE);
    bitmap->table_offset = load_be64(raw + QCOW2_BITMAP_TABLE_OFFSET);
    bitmap->table_entries = load_be32(raw + QCOW2_BITMAP_TABLE_SIZE);
    bitmap->flags = load_be32(raw + QCOW2_BITMAP_FLAGS);
    bitmap->type = raw[QCOW2_BITMAP_TYPE];
    bitmap->granularity_bits = raw[QCOW2_BITMAP_GRANULARITY_BITS];
    bitmap->name_offset = QCOW2_BITMAP_HEADER_SIZE;
    bitmap->name = raw + bitmap->name_offset;
    bitmap->name_size = load_be16(raw + QCOW2_BITMAP_NAME_SIZE);
    bitmap->size = round_up(QCOW2_BITMAP_HEADER_SIZE + extra + bitmap->name_size, 8);
    if (extra || bitmap->name_size > QCOW2_BITMAP_NAME_MAX || bitmap->size > left)
        return 0;
    return raw;
}

uint64_t bitmap_table_entries(const struct qcow2_image *image, const struct bitmap *bitmap,
                              uint64_t disk_size)
{
    uint32_t bits = bitmap->granularity_bits < 63 ? bitmap->granularity_bits : 63;
    uint64_t size = disk_size / SECTOR_SIZE * SECTOR_SIZE; /* as qemu has it */
    uint64_t flags = (size >> bits) + !!(size & ((UINT64_C(1) << bits) - 1));
    return round_up((flags + 7) / 8, image->header.cluster_size) >> image->header.cluster_bits;
}

bool start_names(struct qcow2_image *image, struct bitmap_names *names)
{
    names->slots = (uint64_t)SLOTS_PER_NAME * image->header.nb_bitmaps;
    uint64_t size = names->slots * sizeof(uint64_t);
    if (!spend(&image->file.budget, size))
        return false;
    memset(image->memory->words, 0, size);
    return true;
}

/* As qemu reads it, a name ends at a NUL byte. */
static uint64_t hash_name(const struct bitmap *bitmap)
{
    uint64_t hash = HASH_START;
    for (uint32_t i = 0; i < bitmap->name_size && bitmap->name[i]; i++)
        hash = (hash ^ bitmap->name[i]) * HASH_PRIME;
    return hash ? hash : 1;
}

/* Note the name, and find whether it was there. False: refused. */
static bool note_name(struct qcow2_image *image, const struct bitmap *bitmap,
                      const struct bitmap_names *names, bool *repeated)
{
    uint64_t *words = image->memory->words, hash = hash_name(bitmap);
    uint64_t slot = hash % names->slots;
    while (words[slot] && words[slot] != hash) {
        if (!spend(&image->file.budget, NAME_WORK))
            return false;
        if (++slot == names->slots)
            slot = 0;
    }
    *repeated = words[slot] != 0;
    words[slot] = hash;
    return true;
}

bool judge_bitmap(struct qcow2_image *image, const struct bitmap *bitmap,
                  struct bitmap_names *names, enum bitmap_fault *fault)
{
    const struct qcow2_header *h = &image->header;
    bool in_use = bitmap->flags & QCOW2_BITMAP_IN_USE, repeated;
    if (!note_name(image, bitmap, names, &repeated))
        return false;
    *fault = repeated ? BITMAP_NAME : BITMAP_SOUND;
    if (bitmap->table_entries > SIZE_MAX_BYTES >> h->cluster_bits ||
        (!in_use && bitmap->table_entries != bitmap_table_entries(image, bitmap, h->size)))
        *fault = BITMAP_TABLE;
    if (bitmap->type != TYPE_DIRTY_TRACKING || bitmap->flags & ~FLAGS_KNOWN ||
        bitmap->granularity_bits < GRANULARITY_BITS_MIN ||
        bitmap->granularity_bits > GRANULARITY_BITS_MAX)
        *fault = BITMAP_FIELDS;
    return true;
}

void name_bitmaps(struct qcow2_image *image)
{
    const struct qcow2_header *h = &image->header;
    struct verdict *v = image->file.verdict;
    struct bitmap bitmap;
    uint64_t at = 0;
    if (!has_sound_directory(image))
        return;
    for (uint32_t i = 0; i < h->nb_bitmaps; i++, at += bitmap.size) {
        const uint8_t *raw = read_bitmap(image, at, &bitmap);
        if (!raw || sizeof(v->names) - v->names_size < 2 + bitmap.name_size)
            return;
        v->names[v->names_size] = (uint8_t)bitmap.name_size;
        v->names[v->names_size + 1] = (uint8_t)(bitmap.name_size >> 8);
        memcpy(v->names + v->names_size + 2, raw + bitmap.name_offset, bitmap.name_size);
        v->names_size += 2 + bitmap.name_size;
    }
}

bool walk_bitmaps(struct qcow2_image *image,
                  bool (*visit)(void *context, const struct bitmap *bitmap), void *context)
{
    const struct qcow2_header *h = &image->header;
    uint64_t at = 0, table_bytes = 0;
    struct bitmap bitmap;
    if (!has_sound_directory(image))
        return refuse_bitmaps(image);
    for (uint32_t i = 0; i < h->nb_bitmaps; i++, at += bitmap.size) {
        if (!read_bitmap(image, at, &bitmap))
            return image->file.verdict->unsound ? false : refuse_bitmaps(image);
        uint64_t bytes = bitmap.table_entries * QCOW2_TABLE_ENTRY_SIZE;
        /* Tables do not overlap: together they are no larger than the image. */
        table_bytes += bytes;
        if (bytes == 0 || bitmap.table_offset % h->cluster_size != 0 ||
            !inside_image(image, bitmap.table_offset, bytes) || table_bytes > image->file.io->size)
            return refuse_bitmaps(image);
        if (!visit(context, &bitmap))
            return false;
    }
    return at == h->bitmap_directory_size || refuse_bitmaps(image);
}
