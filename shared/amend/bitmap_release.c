/* Pure, either side: gives up what the persistent bitmaps of the untrusted image take. */
#include "amend/bitmap_release.h"

#include "qcow2/bitmaps.h"
#include "qcow2/bytes.h"
#include "qcow2/qcow2.h"

/* Give up the clusters that a bitmap table names, and its own. */
static bool release_table(void *context, const struct bitmap *bitmap)
{
    struct books *books = context;
    struct qcow2_image *image = books->image;
    uint8_t *buffer = image->memory->table;
    uint64_t bytes = bitmap->table_entries * QCOW2_TABLE_ENTRY_SIZE;
    uint32_t part = TABLE_SIZE;
    for (uint64_t at = 0; at < bytes; at += part) {
        part = bytes - at < part ? (uint32_t)(bytes - at) : part;
        if (!read_image(&image->file, INSTAR_PHASE_PREPARE, bitmap->table_offset + at, buffer,
                        part))
            return false;
        for (uint32_t i = 0; i < part; i += QCOW2_TABLE_ENTRY_SIZE) {
            uint64_t offset = load_be64(buffer + i) & QCOW2_TABLE_OFFSET_MASK;
            if (offset == 0)
                continue;
            if (!is_cluster(image, offset))
                return refuse_bitmaps(image);
            if (!release_clusters(books, offset, 1, AMEND_USE_BITMAP))
                return false;
        }
    }
    return release_clusters(books, bitmap->table_offset, bytes, AMEND_USE_BITMAP);
}

bool release_bitmaps(struct books *books)
{
    struct qcow2_image *image = books->image;
    const struct qcow2_header *h = &image->header;
    if (!(h->autoclear_features & QCOW2_AUTOCLEAR_BITMAPS))
        return true;
    if (!has_sound_directory(image))
        return refuse_bitmaps(image);
    return expect_clusters(books, 0) && walk_bitmaps(image, release_table, books) &&
           release_clusters(books, h->bitmap_directory_offset, h->bitmap_directory_size,
                            AMEND_USE_BITMAP_DIRECTORY);
}
