/* Pure, either side: finds free clusters of the untrusted image, and makes room for their refcounts.
 *
 * Where the refcount blocks end, new ones follow: they, the refcount table if it has to move, and a
 * long run of clusters lie at the start of the first stretch of the image that no block covers yet,
 * so that the new blocks count themselves.
 */
#include "amend/allocate.h"

#include <string.h>

#include "bits.h"
#include "image/writes.h"
#include "qcow2/overlap.h"
#include "qcow2/qcow2.h"

/* What is appended to the stretch that is covered by refcounts. */
struct area {
    uint64_t first; /* cluster */
    uint64_t blocks;
    uint64_t table; /* clusters of the new refcount table, which follows; 0: it stays */
    uint64_t run;   /* clusters that are taken after that */
};

static uint64_t divide_up(uint64_t value, uint64_t by)
{
    return (value + by - 1) / by;
}

/* Lay an area out for a run of `run` clusters. False: the refcount table would be too large. */
static bool lay_out(struct books *books, uint64_t run, struct area *area)
{
    const struct refcounts *r = &books->counts;
    uint64_t per_block = entries_per_block(books->image),
             cluster_size = books->image->header.cluster_size;
    uint64_t wanted = divide_up(books->expected, per_block - 1);
    uint64_t at_once = larger(1, smaller(wanted, BLOCKS_AT_ONCE));
    *area = (struct area){.first = r->blocks * per_block, .blocks = at_once, .run = run};
    /* Each block counts itself, and leaves at least one cluster over. The table moves at once, if what
     * may follow needs that: its old place is not written to. */
    while (area->blocks * (per_block - 1) < area->table + run + 1 ||
           (area->table == 0 && r->blocks + larger(area->blocks, wanted) > r->table_entries)) {
        uint64_t needed = r->blocks + larger(++area->blocks, wanted);
        if (needed > r->table_entries)
            area->table = divide_up((needed + area->blocks) * QCOW2_TABLE_ENTRY_SIZE, cluster_size);
    }
    if (area->table == 0 || (area->table * cluster_size <= QCOW2_REFCOUNT_TABLE_SIZE_MAX &&
                             r->blocks == r->disk_blocks))
        return true;
    refuse(books->image->file.verdict, REFUSAL_REFCOUNT_TABLE_FULL, AMEND_ERROR_OVERFLOW,
           books->image->header.refcount_table_offset, area->table * cluster_size, 0);
    return false;
}

/* Write the new blocks whole: 1 for each cluster of the area, else 0. */
static bool write_blocks(struct books *books, const struct area *area, uint8_t *buffer)
{
    uint32_t order = books->image->header.refcount_order;
    uint64_t used = area->blocks + area->table + area->run;
    uint64_t bytes = area->blocks << books->image->header.cluster_bits;
    uint64_t start = area->first << books->image->header.cluster_bits;
    uint32_t part = WINDOW_SIZE;
    for (uint64_t at = 0; at < bytes; at += part) {
        uint64_t first = at * 8 >> order, ones = used > first ? used - first : 0;
        if (bytes - at < part)
            part = (uint32_t)(bytes - at);
        memset(buffer, 0, part);
        for (uint64_t i = 0; i < ones && i < (uint64_t)part * 8 >> order; i++)
            store_refcount(buffer, i, order, 1);
        if (!write_image(&books->image->file, INSTAR_PHASE_PREPARE, start + at, buffer, part))
            return false;
    }
    return true;
}

/* Copy the refcount table to its new place, which nothing refers to until all else is there. */
static bool move_table(struct books *books, const struct area *area, uint8_t *buffer)
{
    struct refcounts *r = &books->counts;
    uint64_t to = (area->first + area->blocks) << books->image->header.cluster_bits;
    uint64_t bytes = area->table << books->image->header.cluster_bits;
    uint64_t old_bytes = r->table_entries * QCOW2_TABLE_ENTRY_SIZE;
    uint32_t part = WINDOW_SIZE;
    for (uint64_t at = 0; at < bytes; at += part) {
        uint64_t copied = old_bytes > at ? old_bytes - at : 0;
        if (bytes - at < part)
            part = (uint32_t)(bytes - at);
        copied = copied < part ? copied : part;
        memset(buffer, 0, part);
        if ((copied && !read_image(&books->image->file, r->table.phase, r->table_offset + at,
                                   buffer, (uint32_t)copied)) ||
            !write_image(&books->image->file, INSTAR_PHASE_PREPARE, to + at, buffer, part))
            return false;
    }
    r->table_offset = to;
    r->table_entries = bytes / QCOW2_TABLE_ENTRY_SIZE;
    r->table.write_phase = INSTAR_PHASE_PREPARE;
    r->table.loaded = false;
    books->table_moved = true;
    return true;
}

/* Cover more of the image with refcounts; *offset is where a run of `run` clusters now is. */
static bool append(struct books *books, uint64_t run, uint64_t *offset)
{
    struct refcounts *r = &books->counts;
    uint32_t bits = books->image->header.cluster_bits;
    struct area area;
    uint8_t *scratch;
    if (!lay_out(books, run, &area))
        return false;
    uint64_t used = area.blocks + area.table + area.run;
    if (!extend_to(&books->image->file, (area.first + used) << bits) ||
        !is_free_of_tables(books->image, area.first << bits, used << bits, AMEND_USE_NEW) ||
        !empty_windows(books, &scratch) || !write_blocks(books, &area, scratch) ||
        (area.table && !move_table(books, &area, scratch)))
        return false;
    for (uint64_t i = 0; i < area.blocks; i++)
        if (!set_block(books, r->blocks + i, (area.first + i) << bits))
            return false;
    r->blocks += area.blocks;
    *offset = (area.first + used - area.run) << bits;
    return true;
}

bool allocate_clusters(struct books *books, uint64_t count, uint64_t references, uint64_t *offset)
{
    struct refcounts *r = &books->counts;
    uint32_t bits = books->image->header.cluster_bits;
    uint64_t run = 0, refcount;
    bool covered;
    for (uint64_t cluster = books->next;; cluster++) {
        if (cluster / entries_per_block(books->image) >= r->blocks) {
            if (count > 1)
                return append(books, count, offset);
            if (!append(books, 0, offset))
                return false;
        }
        /* Refcounts may go on far past the end, and all be taken: no use in looking there. */
        if (!may_extend_to(&books->image->file, (cluster + 1) << bits))
            return extend_to(&books->image->file, (cluster + 1) << bits);
        if (!get_prepared_refcount(books, cluster << bits, &refcount, &covered))
            return false;
        if (!covered) /* nor are the others that the block would cover */
            cluster |= entries_per_block(books->image) - 1;
        run = covered && refcount == 0 ? run + 1 : 0;
        if (count == 1)
            books->next = cluster + 1;
        if (run == count) {
            *offset = (cluster + 1 - count) << bits;
            break;
        }
    }
    if (!extend_to(&books->image->file, *offset + (count << bits)) ||
        !is_free_of_tables(books->image, *offset, count << bits, AMEND_USE_NEW))
        return false;
    for (uint64_t i = 0; i < count; i++)
        if (!take_cluster(books, *offset + (i << bits), references))
            return false;
    if (books->expected)
        books->expected--;
    return true;
}
