/* Pure, either side: gives up a part of the untrusted image's active layer ("Cluster mapping"). */
#include "amend/drop.h"

#include "bits.h"
#include "qcow2/bytes.h"
#include "qcow2/geometry.h"
#include "qcow2/l2.h"
#include "qcow2/qcow2.h"

#define PROGRESS_STEPS 100u
#define ENTRY_WORK 128u /* cost of a look at an L1 entry, in bytes read */

/* Parts of L2 tables that are read together. */
struct dropping {
    struct books *books;
    uint64_t kept_end; /* the place in the image before which entries are kept; 0: none is */
    uint64_t bytes;
    uint32_t count;
    struct io_range ranges[IO_RANGES_MAX];
};

/* "Compressed Clusters Descriptor": the data begin anywhere, and may go on in the next cluster. */
static bool drop_compressed(struct books *books, uint64_t place, uint64_t entry)
{
    struct qcow2_image *image = books->image;
    uint32_t bits = image->header.cluster_bits, offset_bits = 70 - bits;
    uint64_t start = entry & ((UINT64_C(1) << offset_bits) - 1);
    uint64_t sectors = (entry & (QCOW2_L2_COMPRESSED - 1)) >> offset_bits;
    uint64_t end = (start / SECTOR_SIZE + sectors + 1) * SECTOR_SIZE;
    uint64_t first = cluster_of(image, start);
    if (!inside_image(image, first, round_up(end, image->header.cluster_size) - first))
        return refuse_entry(image, place, entry);
    return release_clusters(books, first, end - first, AMEND_USE_COMPRESSED);
}

static bool drop_entry(struct books *books, uint64_t place, const uint8_t *raw)
{
    uint64_t entry = load_be64(raw), offset = entry & QCOW2_TABLE_OFFSET_MASK;
    if (entry & QCOW2_L2_COMPRESSED)
        return drop_compressed(books, place, entry);
    if (offset == 0)
        return true;
    if (!is_cluster(books->image, offset))
        return refuse_entry(books->image, place, entry);
    return release_cluster(books, offset, 1, AMEND_USE_DATA);
}

static bool flush_parts(struct dropping *dropping)
{
    struct qcow2_image *image = dropping->books->image;
    uint32_t count = dropping->count, step = l2_entry_size(&image->header);
    dropping->count = 0;
    dropping->bytes = 0;
    if (!read_ranges(&image->file, INSTAR_PHASE_PREPARE, dropping->ranges, count))
        return false;
    for (uint32_t i = 0; i < count; i++) {
        const struct io_range *part = &dropping->ranges[i];
        for (uint64_t at = 0; at < part->length; at += step)
            if (part->offset + at >= dropping->kept_end &&
                !drop_entry(dropping->books, part->offset + at, part->buffer + at))
                return false;
    }
    return true;
}

/* Take up an L2 table from its byte `from` on, a multiple of a sector. What is after the image's end
 * names nothing. */
static bool add_table(struct dropping *dropping, uint64_t table, uint64_t from)
{
    struct qcow2_image *image = dropping->books->image;
    uint64_t end = round_up(image->file.io->size, SECTOR_SIZE);
    uint32_t part = image->header.cluster_size < BATCH_SIZE ? image->header.cluster_size : BATCH_SIZE;
    for (uint64_t at = table + from; at < table + image->header.cluster_size && at < end;) {
        uint64_t left = table + image->header.cluster_size - at, length = left < part ? left : part;
        if ((dropping->bytes + length > BATCH_SIZE || dropping->count == IO_RANGES_MAX) &&
            !flush_parts(dropping))
            return false;
        dropping->ranges[dropping->count++] =
            (struct io_range){at, length < end - at ? length : end - at,
                              image->memory->batch + dropping->bytes};
        dropping->bytes += length;
        at += length;
    }
    return true;
}

bool drop_entries(struct books *books, uint64_t table, uint64_t first)
{
    uint64_t from = first * l2_entry_size(&books->image->header);
    struct dropping dropping = {.books = books, .kept_end = table + from};
    return add_table(&dropping, table, from & ~(uint64_t)(SECTOR_SIZE - 1)) &&
           flush_parts(&dropping);
}

bool drop_tables(struct books *books, uint64_t first, uint64_t end)
{
    struct qcow2_image *image = books->image;
    struct dropping dropping = {.books = books};
    struct window l1 = {image->memory->other_table, TABLE_SIZE, INSTAR_PHASE_PREPARE, 0,
                        .loaded = false};
    for (uint64_t i = first; i < end; i++) {
        uint64_t place = image->header.l1_table_offset + i * QCOW2_TABLE_ENTRY_SIZE;
        const uint8_t *entry = look(&image->file, &l1, place, QCOW2_TABLE_ENTRY_SIZE);
        if (!entry)
            return false;
        uint64_t table = load_be64(entry) & QCOW2_TABLE_OFFSET_MASK;
        if ((i - first) % ((end - first) / PROGRESS_STEPS + 1) == 0)
            report_progress(&image->file, i - first, end - first);
        if (table == 0)
            continue;
        if (!is_cluster(image, table))
            return refuse(image->file.verdict, REFUSAL_L2_TABLE, AMEND_ERROR_PARSE_FAILED,
                          image->header.l1_table_offset, i, table);
        if (!spend(&image->file.budget, ENTRY_WORK) || !add_table(&dropping, table, 0) ||
            !release_cluster(books, table, 1, AMEND_USE_L2_TABLE))
            return false;
    }
    return flush_parts(&dropping);
}
