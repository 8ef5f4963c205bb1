/* Pure, either side: what the persistent bitmaps of the untrusted image refer to. */
#include "inspect/bitmap_tables.h"
#include "qcow2/bitmaps.h"
#include "qcow2/bytes.h"
#include "qcow2/qcow2.h"

/* "Bitmap table": reserved bits, and the one that says that all bits are set, of no cluster. */
#define ENTRY_RESERVED UINT64_C(0xff000000000001fe)
#define ENTRY_ALL_ONES UINT64_C(1)

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

static bool count_bitmap(void *context, const struct bitmap *bitmap)
{
    struct checking *checking = context;
    uint8_t *table = checking->image.memory->table;
    uint64_t entries = bitmap->table_entries, offset = bitmap->table_offset;
    if (!count_region(checking, offset, entries * QCOW2_TABLE_ENTRY_SIZE, AMEND_USE_BITMAP))
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
    if (h->nb_bitmaps == 0)
        return true;
    return count_region(checking, h->bitmap_directory_offset, h->bitmap_directory_size,
                        AMEND_USE_BITMAP_DIRECTORY) &&
           walk_bitmaps(&checking->image, count_bitmap, checking);
}
