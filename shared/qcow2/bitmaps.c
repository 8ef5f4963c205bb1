/* Pure, either side: the persistent bitmaps of the untrusted image ("Bitmaps extension"): their names,
 * and their clusters when a downgrade gives them up.
 *
 * Only for images whose autoclear bit says that the extension is consistent. Without it the clusters
 * may have been taken for something else, and stay what they are.
 */
#include <string.h>

#include "qcow2/bytes.h"
#include "amend/internal.h"

/* An entry of the bitmap directory. */
struct bitmap {
    uint64_t table_offset;
    uint64_t table_entries;
    uint32_t name_offset; /* from the entry's start */
    uint32_t name_size;
    uint64_t size; /* of the entry, padding included */
};

static bool refuse_bitmaps(struct planner *planner)
{
    const struct qcow2_header *h = &planner->header;
    refuse(planner, REFUSAL_BITMAPS, AMEND_ERROR_PARSE_FAILED, h->bitmap_directory_offset,
           h->nb_bitmaps, 0);
    return false;
}

static bool directory_is_sound(const struct planner *planner)
{
    const struct qcow2_header *h = &planner->header;
    return h->bitmap_directory_size &&
           inside_image(planner, h->bitmap_directory_offset, h->bitmap_directory_size);
}

/* Read the entry at byte `at` of the directory through the window. Null: refused, or not sound. */
static const uint8_t *read_bitmap(struct planner *planner, uint64_t at, struct bitmap *bitmap)
{
    const struct qcow2_header *h = &planner->header;
    uint64_t left = h->bitmap_directory_size - at;
    if (at > h->bitmap_directory_size || left < QCOW2_BITMAP_HEADER_SIZE)
        return 0;
    uint32_t most = QCOW2_BITMAP_HEADER_SIZE + QCOW2_BITMAP_NAME_MAX;
    const uint8_t *raw = look(planner, &planner->snapshots, h->bitmap_directory_offset + at, most);
    if (!raw)
        return 0;
    uint64_t extra = load_be32(raw + QCOW2_BITMAP_EXTRA_DATA_SIZE);
    bitmap->table_offset = load_be64(raw + QCOW2_BITMAP_TABLE_OFFSET);
    bitmap->table_entries = load_be32(raw + QCOW2_BITMAP_TABLE_SIZE);
    bitmap->name_offset = QCOW2_BITMAP_HEADER_SIZE;
    bitmap->name_size = load_be16(raw + QCOW2_BITMAP_NAME_SIZE);
    bitmap->size = round_up(QCOW2_BITMAP_HEADER_SIZE + extra + bitmap->name_size, 8);
    if (extra || bitmap->name_size > QCOW2_BITMAP_NAME_MAX || bitmap->size > left)
        return 0;
    return raw;
}

void name_bitmaps(struct planner *planner)
{
    const struct qcow2_header *h = &planner->header;
    struct verdict *v = planner->verdict;
    struct bitmap bitmap;
    uint64_t at = 0;
    if (!directory_is_sound(planner))
        return;
    for (uint32_t i = 0; i < h->nb_bitmaps; i++, at += bitmap.size) {
        const uint8_t *raw = read_bitmap(planner, at, &bitmap);
        if (!raw || sizeof(v->names) - v->names_size < 2 + bitmap.name_size)
            return;
        v->names[v->names_size] = (uint8_t)bitmap.name_size;
        v->names[v->names_size + 1] = (uint8_t)(bitmap.name_size >> 8);
        memcpy(v->names + v->names_size + 2, raw + bitmap.name_offset, bitmap.name_size);
        v->names_size += 2 + bitmap.name_size;
    }
}

/* Give up the clusters that a bitmap table names, and its own. */
static bool release_table(struct planner *planner, const struct bitmap *bitmap)
{
    uint8_t *buffer = planner->workspace->table;
    uint64_t bytes = bitmap->table_entries * QCOW2_TABLE_ENTRY_SIZE;
    uint32_t part = PLANNER_TABLE_SIZE;
    for (uint64_t at = 0; at < bytes; at += part) {
        part = bytes - at < part ? (uint32_t)(bytes - at) : part;
        if (!read_image(planner, INSTAR_PHASE_PREPARE, bitmap->table_offset + at, buffer, part))
            return false;
        for (uint32_t i = 0; i < part; i += QCOW2_TABLE_ENTRY_SIZE) {
            uint64_t offset = load_be64(buffer + i) & QCOW2_TABLE_OFFSET_MASK;
            if (offset == 0)
                continue;
            if (!is_cluster(planner, offset))
                return refuse_bitmaps(planner);
            if (!release_clusters(planner, offset, 1, AMEND_USE_BITMAP))
                return false;
        }
    }
    return release_clusters(planner, bitmap->table_offset, bytes, AMEND_USE_BITMAP);
}

bool release_bitmaps(struct planner *planner)
{
    const struct qcow2_header *h = &planner->header;
    uint64_t at = 0, table_bytes = 0;
    struct bitmap bitmap;
    if (!(h->autoclear_features & QCOW2_AUTOCLEAR_BITMAPS))
        return true;
    if (!directory_is_sound(planner))
        return refuse_bitmaps(planner);
    if (!start_refcounts(planner, 0))
        return false;
    for (uint32_t i = 0; i < h->nb_bitmaps; i++, at += bitmap.size) {
        if (!read_bitmap(planner, at, &bitmap))
            return planner->unsound ? false : refuse_bitmaps(planner);
        uint64_t bytes = bitmap.table_entries * QCOW2_TABLE_ENTRY_SIZE;
        /* Tables do not overlap: together they are no larger than the image. */
        table_bytes += bytes;
        if (bytes == 0 || bitmap.table_offset % h->cluster_size != 0 ||
            !inside_image(planner, bitmap.table_offset, bytes) || table_bytes > planner->io->size)
            return refuse_bitmaps(planner);
        if (!release_table(planner, &bitmap))
            return false;
    }
    if (at != h->bitmap_directory_size)
        return refuse_bitmaps(planner);
    return release_clusters(planner, h->bitmap_directory_offset, h->bitmap_directory_size,
                            AMEND_USE_BITMAP_DIRECTORY);
}
