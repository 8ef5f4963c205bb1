/* Pure, either side: what the persistent bitmaps of the untrusted image refer to. */
#include "inspect/bitmap_tables.h"
#include "qcow2/bitmaps.h"
#include "qcow2/bytes.h"
#include "qcow2/qcow2.h"

/* "Bitmap table": reserved bits, and the one that says that all bits are set, of no cluster. */
#define ENTRY_RESERVED UINT64_C(0xff000000000001fe)
#define ENTRY_ALL_ONES UINT64_C(1)

/* What is known of the bitmaps as they are counted. */
struct bitmap_count {
    struct checking *checking;
    struct bitmap_names names;
    uint64_t number; /* of the bitmap at hand, from 1 on */
};

static bool count_entry(struct checking *checking, uint64_t index, uint64_t entry)
{
    uint64_t offset = entry & QCOW2_TABLE_OFFSET_MASK;
    uint32_t size = checking->image.header.cluster_size;
    if (entry & ENTRY_RESERVED || (offset && (offset % size || entry & ENTRY_ALL_ONES))) {
        find(checking, CHECK_BITMAP_ENTRY, index, entry, 0);
        return true;
    }
    return offset == 0 || count_region(checking, offset, size, AMEND_USE_BITMAP);
}

/* See whether qemu would load the bitmap. False: refused. */
static bool check_bitmap(struct bitmap_count *count, const struct bitmap *bitmap)
{
    struct qcow2_image *image = &count->checking->image;
    enum bitmap_fault fault;
    count->number++;
    if (!judge_bitmap(image, bitmap, &count->names, &fault))
        return false;
    if (fault == BITMAP_FIELDS)
        find(count->checking, CHECK_BITMAP, count->number, 0, 0);
    else if (fault == BITMAP_TABLE)
        find(count->checking, CHECK_BITMAP_TABLE, count->number, bitmap->table_entries,
             bitmap_table_entries(image, bitmap, image->header.size));
    else if (fault == BITMAP_NAME)
        find(count->checking, CHECK_BITMAP_NAME, count->number, 0, 0);
    return true;
}

static bool count_bitmap(void *context, const struct bitmap *bitmap)
{
    struct bitmap_count *count = context;
    struct checking *checking = count->checking;
    uint8_t *table = checking->image.memory->table;
    uint64_t entries = bitmap->table_entries, offset = bitmap->table_offset;
    if (!check_bitmap(count, bitmap) ||
        !count_region(checking, offset, entries * QCOW2_TABLE_ENTRY_SIZE, AMEND_USE_BITMAP))
        return false;
    for (uint64_t i = 0; i < entries; i++) {
        uint64_t at = i * QCOW2_TABLE_ENTRY_SIZE % TABLE_SIZE;
        uint64_t left = (entries - i) * QCOW2_TABLE_ENTRY_SIZE;
        if (at == 0 && !read_image(&checking->image.file, INSTAR_PHASE_PREPARE,
                                   offset + i * QCOW2_TABLE_ENTRY_SIZE, table,
                                   left < TABLE_SIZE ? (uint32_t)left : TABLE_SIZE))
            return false;
        if (!count_entry(checking, i, load_be64(table + at)))
            return false;
    }
    return true;
}

bool count_bitmaps(struct checking *checking)
{
    const struct qcow2_header *h = &checking->image.header;
    struct bitmap_count count = {.checking = checking};
    if (h->nb_bitmaps == 0)
        return true;
    return count_region(checking, h->bitmap_directory_offset, h->bitmap_directory_size,
                        AMEND_USE_BITMAP_DIRECTORY) &&
           start_names(&checking->image, &count.names) &&
           walk_bitmaps(&checking->image, count_bitmap, &count);
}
