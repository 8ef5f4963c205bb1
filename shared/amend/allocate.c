/* Pure, either side: finds free clusters of the untrusted image, and makes room for their refcounts.
 *
 * Where the refcount blocks end, new ones follow: they, the refcount table if it has to move, and a
 * long run of clusters lie at the start of the first stretch of the image that no block covers yet,
 * so that the new blocks count themselves.
 */
#include <string.h>

#include "qcow2/bytes.h"
#include "amend/internal.h"

/* So many blocks at a time, if there is use for them: each append costs a few requests. */
#define BLOCKS_AT_ONCE 16u

/* What is appended to the stretch that is covered by refcounts. */
struct area {
    uint64_t first; /* cluster */
    uint64_t blocks;
    uint64_t table; /* clusters of the new refcount table, which follows; 0: it stays */
    uint64_t run;   /* clusters that are taken behind that */
};

static uint64_t divide_up(uint64_t value, uint64_t by)
{
    return (value + by - 1) / by;
}

static uint64_t larger(uint64_t a, uint64_t b)
{
    return a > b ? a : b;
}

/* Lay an area out for a run of `run` clusters. False: the refcount table would be too large. */
static bool lay_out(struct planner *planner, uint64_t run, struct area *area)
{
    const struct refcounts *r = &planner->refcounts;
    uint64_t per_block = entries_per_block(planner), cluster_size = planner->header.cluster_size;
    uint64_t wanted = divide_up(r->expected, per_block - 1);
    uint64_t at_once = larger(1, wanted < BLOCKS_AT_ONCE ? wanted : BLOCKS_AT_ONCE);
    *area = (struct area){.first = r->blocks * per_block, .blocks = at_once, .run = run};
    /* Each block counts itself, and leaves at least one cluster over. The table moves at once, if what
     * may follow needs that: its old place is not written to. */
    while (area->blocks * (per_block - 1) < area->table + run + 1 ||
           (area->table == 0 && r->blocks + larger(area->blocks, wanted) > r->table_entries)) {
        uint64_t needed = r->blocks + larger(++area->blocks, wanted);
        if (needed > r->table_entries)
            area->table =
                divide_up((needed + area->blocks) * QCOW2_TABLE_ENTRY_SIZE, cluster_size);
    }
    if (area->table == 0 || (area->table * cluster_size <= QCOW2_REFCOUNT_TABLE_SIZE_MAX &&
                             r->blocks == r->disk_blocks))
        return true;
    refuse(planner, REFUSAL_REFCOUNT_TABLE_FULL, AMEND_ERROR_OVERFLOW,
           planner->header.refcount_table_offset, area->table * cluster_size, 0);
    return false;
}

/* Write the new blocks whole: 1 for each cluster of the area, else 0. */
static bool write_blocks(struct planner *planner, const struct area *area)
{
    uint8_t *buffer = planner->workspace->prepared;
    uint64_t used = area->blocks + area->table + area->run;
    uint64_t bytes = area->blocks << planner->header.cluster_bits;
    uint64_t start = area->first << planner->header.cluster_bits;
    uint32_t part = PLANNER_WINDOW_SIZE;
    for (uint64_t at = 0; at < bytes; at += part) {
        uint64_t first = at / 2, ones = used > first ? used - first : 0;
        if (bytes - at < part)
            part = (uint32_t)(bytes - at);
        memset(buffer, 0, part);
        for (uint64_t i = 0; i < ones && i < part / 2; i++)
            buffer[2 * i + 1] = 1;
        if (!write_image(planner, INSTAR_PHASE_PREPARE, start + at, buffer, part))
            return false;
    }
    return true;
}

/* Copy the refcount table to its new place, which nothing refers to until all else is there. */
static bool move_table(struct planner *planner, const struct area *area)
{
    struct refcounts *r = &planner->refcounts;
    uint8_t *buffer = planner->workspace->prepared;
    uint64_t to = (area->first + area->blocks) << planner->header.cluster_bits;
    uint64_t bytes = area->table << planner->header.cluster_bits;
    uint64_t old_bytes = r->table_entries * QCOW2_TABLE_ENTRY_SIZE;
    uint32_t part = PLANNER_WINDOW_SIZE;
    for (uint64_t at = 0; at < bytes; at += part) {
        uint64_t copied = old_bytes > at ? old_bytes - at : 0;
        if (bytes - at < part)
            part = (uint32_t)(bytes - at);
        copied = copied < part ? copied : part;
        memset(buffer, 0, part);
        if ((copied && !read_image(planner, r->table.phase, r->table_offset + at, buffer,
                                   (uint32_t)copied)) ||
            !write_image(planner, INSTAR_PHASE_PREPARE, to + at, buffer, part))
            return false;
    }
    r->table_offset = to;
    r->table_entries = bytes / QCOW2_TABLE_ENTRY_SIZE;
    r->table.write_phase = INSTAR_PHASE_PREPARE;
    r->table.loaded = false;
    r->table_moved = true;
    return true;
}

/* Cover more of the image with refcounts; *offset is where a run of `run` clusters now is. */
static bool append(struct planner *planner, uint64_t run, uint64_t *offset)
{
    struct refcounts *r = &planner->refcounts;
    uint32_t bits = planner->header.cluster_bits;
    struct area area;
    if (!lay_out(planner, run, &area))
        return false;
    uint64_t used = area.blocks + area.table + area.run;
    if (!extend_to(planner, (area.first + used) << bits) ||
        !is_free_of_tables(planner, area.first << bits, used << bits, AMEND_USE_NEW) || !flush_refcounts(planner))
        return false;
    r->prepared.loaded = r->released.loaded = false;
    if (!write_blocks(planner, &area) || (area.table && !move_table(planner, &area)))
        return false;
    for (uint64_t i = 0; i < area.blocks; i++)
        if (!set_block(planner, r->blocks + i, (area.first + i) << bits))
            return false;
    r->blocks += area.blocks;
    *offset = (area.first + used - area.run) << bits;
    return true;
}

bool allocate_clusters(struct planner *planner, uint64_t count, uint32_t references,
                       uint64_t *offset)
{
    struct refcounts *r = &planner->refcounts;
    uint32_t bits = planner->header.cluster_bits, refcount;
    uint64_t run = 0;
    for (uint64_t cluster = r->next;; cluster++) {
        if (cluster / entries_per_block(planner) >= r->blocks) {
            if (count > 1)
                return append(planner, count, offset);
            if (!append(planner, 0, offset))
                return false;
        }
        /* Refcounts may go on far behind the end, and all be taken: no use in looking there. */
        if (!may_extend_to(planner, (cluster + 1) << bits))
            return extend_to(planner, (cluster + 1) << bits);
        if (!get_prepared_refcount(planner, cluster << bits, &refcount))
            return false;
        if (refcount == UINT32_MAX) /* nor are the others that the block would cover */
            cluster |= entries_per_block(planner) - 1;
        run = refcount == 0 ? run + 1 : 0;
        if (count == 1)
            r->next = cluster + 1;
        if (run == count) {
            *offset = (cluster + 1 - count) << bits;
            break;
        }
    }
    if (!extend_to(planner, *offset + (count << bits)) ||
        !is_free_of_tables(planner, *offset, count << bits, AMEND_USE_NEW))
        return false;
    for (uint64_t i = 0; i < count; i++)
        if (!take_cluster(planner, *offset + (i << bits), references))
            return false;
    if (r->expected)
        r->expected--;
    return true;
}
