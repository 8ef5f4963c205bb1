/* Pure, either side: reads the untrusted image's refcounts ("Refcount table", "Refcount block"). */
#include "qcow2/refcounts.h"

#include "qcow2/bytes.h"
#include "qcow2/qcow2.h"

/* Cost of a lookup, in bytes read. */
#define LOOKUP_WORK 128u

uint64_t load_refcount(const uint8_t *block, uint64_t index, uint32_t order)
{
    uint32_t bits = UINT32_C(1) << order;
    switch (order) {
    case 6:
        return load_be64(block + index * 8);
    case 5:
        return load_be32(block + index * 4);
    case 4:
        return load_be16(block + index * 2);
    default: /* the lower cluster numbers have the lower bits */
        return block[index * bits / 8] >> index * bits % 8 & largest_refcount(order);
    }
}

void store_refcount(uint8_t *block, uint64_t index, uint32_t order, uint64_t refcount)
{
    uint32_t bits = UINT32_C(1) << order;
    uint8_t *first = block + index * bits / 8;
    if (bits < 8) {
        uint32_t shift = (uint32_t)(index * bits % 8);
        uint32_t others = *first & ~((uint32_t)largest_refcount(order) << shift);
        *first = (uint8_t)(others | (uint32_t)refcount << shift);
        return;
    }
    for (uint32_t i = bits / 8; i > 0; refcount >>= 8)
        first[--i] = (uint8_t)refcount;
}

uint64_t largest_refcount(uint32_t order)
{
    return order == QCOW2_REFCOUNT_ORDER_MAX ? UINT64_MAX : (UINT64_C(1) << (1u << order)) - 1;
}

uint64_t entries_per_block(const struct qcow2_image *image)
{
    return (uint64_t)image->header.cluster_size * 8 >> image->header.refcount_order;
}

static bool refuse_table(struct qcow2_image *image)
{
    const struct qcow2_header *h = &image->header;
    return refuse(image->file.verdict, REFUSAL_REFCOUNT_TABLE, AMEND_ERROR_PARSE_FAILED,
                  h->refcount_table_offset, h->refcount_table_clusters, image->file.io->size);
}

bool refuse_refcount(struct qcow2_image *image, uint64_t offset, uint64_t found, uint64_t needed)
{
    return refuse(image->file.verdict, REFUSAL_REFCOUNT, AMEND_ERROR_PARSE_FAILED, offset, found,
                  needed);
}

bool get_block(struct refcounts *refcounts, uint64_t index, uint64_t *offset)
{
    *offset = 0;
    if (index >= refcounts->blocks)
        return true;
    const uint8_t *entry =
        look(&refcounts->image->file, &refcounts->table,
             refcounts->table_offset + index * QCOW2_TABLE_ENTRY_SIZE, QCOW2_TABLE_ENTRY_SIZE);
    if (!entry)
        return false;
    *offset = load_be64(entry);
    if (*offset && index < refcounts->disk_blocks && !is_cluster(refcounts->image, *offset))
        return refuse_table(refcounts->image);
    return true;
}

/* Where the refcount of a cluster is in its block, but for the bytes. */
static struct refcount_place place_in(const struct qcow2_image *image, uint64_t block,
                                      uint64_t cluster)
{
    uint32_t bits = UINT32_C(1) << image->header.refcount_order;
    uint64_t index = cluster % entries_per_block(image);
    return (struct refcount_place){
        .at = block + index * bits / 8,
        .index = bits < 8 ? index % (8 / bits) : 0,
    };
}

static uint32_t bytes_of_refcount(const struct qcow2_image *image)
{
    uint32_t bits = UINT32_C(1) << image->header.refcount_order;
    return bits < 8 ? 1 : bits / 8;
}

bool find_refcount(struct refcounts *refcounts, struct window *window, uint64_t blocks,
                   uint64_t offset, struct refcount_place *place, bool *covered)
{
    struct qcow2_image *image = refcounts->image;
    uint64_t cluster = offset >> image->header.cluster_bits, block;
    uint64_t index = cluster / entries_per_block(image);
    if (!spend(&image->file.budget, LOOKUP_WORK) || !get_block(refcounts, index, &block))
        return false;
    *covered = block && index < blocks;
    if (!*covered)
        return true;
    *place = place_in(image, block, cluster);
    place->bytes = look(&image->file, window, place->at, bytes_of_refcount(image));
    return place->bytes;
}

bool read_refcount(struct refcounts *refcounts, struct window *window, uint64_t blocks,
                   uint64_t offset, uint64_t *refcount, bool *covered)
{
    struct refcount_place place;
    *refcount = 0;
    if (!find_refcount(refcounts, window, blocks, offset, &place, covered))
        return false;
    if (*covered)
        *refcount =
            load_refcount(place.bytes, place.index, refcounts->image->header.refcount_order);
    return true;
}

bool get_refcount(struct refcounts *refcounts, uint64_t offset, uint64_t *refcount)
{
    bool covered;
    return read_refcount(refcounts, &refcounts->disk, refcounts->disk_blocks, offset, refcount,
                         &covered);
}

bool has_refcount(const struct refcounts *refcounts, uint64_t offset)
{
    const struct qcow2_image *image = refcounts->image;
    const struct window *table = &refcounts->table;
    uint64_t cluster = offset >> image->header.cluster_bits;
    uint64_t at =
        refcounts->table_offset + cluster / entries_per_block(image) * QCOW2_TABLE_ENTRY_SIZE;
    if (!is_in_window(table, at, QCOW2_TABLE_ENTRY_SIZE))
        return false;
    uint64_t block = load_be64(table->data + (at - table->offset));
    return is_in_window(&refcounts->disk, place_in(image, block, cluster).at,
                        bytes_of_refcount(image));
}

bool get_table_refcount(struct refcounts *refcounts, uint64_t offset, uint64_t *refcount)
{
    if (refcounts->last_table != offset &&
        !get_refcount(refcounts, offset, &refcounts->last_table_users))
        return false;
    refcounts->last_table = offset;
    *refcount = refcounts->last_table_users;
    return true;
}

/* Find where the refcount table's entries end. */
static bool count_blocks(struct refcounts *refcounts)
{
    uint8_t *buffer = refcounts->disk.data; /* which has not been used yet */
    uint64_t bytes = refcounts->table_entries * QCOW2_TABLE_ENTRY_SIZE;
    for (uint64_t at = 0; at < bytes; at += WINDOW_SIZE) {
        uint32_t length = (uint32_t)(bytes - at < WINDOW_SIZE ? bytes - at : WINDOW_SIZE);
        if (!read_image(&refcounts->image->file, INSTAR_PHASE_PREPARE, refcounts->table_offset + at,
                        buffer, length))
            return false;
        for (uint32_t i = 0; i < length; i += QCOW2_TABLE_ENTRY_SIZE)
            if (load_be64(buffer + i))
                refcounts->disk_blocks = (at + i) / QCOW2_TABLE_ENTRY_SIZE + 1;
    }
    refcounts->blocks = refcounts->disk_blocks;
    return true;
}

bool start_refcounts(struct refcounts *refcounts, struct qcow2_image *image, uint32_t table_phase)
{
    const struct qcow2_header *h = &image->header;
    struct qcow2_memory *m = image->memory;
    /* Of small blocks, which may lie anywhere, not much more than one is worth a read. */
    uint32_t disk_window = h->cluster_size > WINDOW_SIZE         ? WINDOW_SIZE
                           : h->cluster_size < SMALL_WINDOW_SIZE ? SMALL_WINDOW_SIZE
                                                                 : h->cluster_size;
    uint64_t table_bytes = (uint64_t)h->refcount_table_clusters << h->cluster_bits;
    *refcounts = (struct refcounts){
        .image = image,
        .table = {m->refcount_table, SMALL_WINDOW_SIZE, table_phase, INSTAR_PHASE_REFCOUNT_TABLE,
                  .any_order = true},
        .disk = {m->refcounts, disk_window, INSTAR_PHASE_PREPARE, 0, .any_order = true},
        .table_offset = h->refcount_table_offset,
        .table_entries = table_bytes / QCOW2_TABLE_ENTRY_SIZE,
    };
    return count_blocks(refcounts);
}
