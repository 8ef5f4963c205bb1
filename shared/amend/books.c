/* Pure, either side: reads and changes the untrusted image's refcounts ("Refcount table", "Refcount
 * block"), which are 16 bits wide here.
 *
 * Clusters are taken in INSTAR_PHASE_PREPARE and given up in INSTAR_PHASE_RELEASE, so one sector of
 * refcounts may be written in both: as soon as anything is given up, both windows follow each change.
 */
#include "qcow2/bytes.h"
#include "amend/internal.h"

#define REFCOUNT_SIZE 2u
/* As many bytes take as long to read as it takes to look up a refcount here, or to give up a cluster here
 * and in the host's books. */
#define LOOKUP_WORK 128u
#define RELEASE_WORK 1024u

#define SEES_TABLE (INSTAR_PHASE_REFCOUNT_TABLE + 1)

uint32_t entries_per_block(const struct planner *planner)
{
    return planner->header.cluster_size / REFCOUNT_SIZE;
}

static bool refuse_table(struct planner *planner)
{
    const struct qcow2_header *h = &planner->header;
    refuse(planner, REFUSAL_REFCOUNT_TABLE, AMEND_ERROR_PARSE_FAILED, h->refcount_table_offset,
           h->refcount_table_clusters, planner->io->size);
    return false;
}

bool refuse_refcount(struct planner *planner, uint64_t offset, uint32_t found, uint32_t needed)
{
    refuse(planner, REFUSAL_REFCOUNT, AMEND_ERROR_PARSE_FAILED, offset, found, needed);
    return false;
}

bool get_block(struct planner *planner, uint64_t index, uint64_t *offset)
{
    struct refcounts *r = &planner->refcounts;
    *offset = 0;
    if (index >= r->blocks)
        return true;
    const uint8_t *entry = look(planner, &r->table, r->table_offset + index * QCOW2_TABLE_ENTRY_SIZE,
                                QCOW2_TABLE_ENTRY_SIZE);
    if (!entry)
        return false;
    *offset = load_be64(entry);
    if (*offset && index < r->disk_blocks && !is_cluster(planner, *offset))
        return refuse_table(planner);
    return true;
}

bool set_block(struct planner *planner, uint64_t index, uint64_t offset)
{
    struct refcounts *r = &planner->refcounts;
    uint64_t at = r->table_offset + index * QCOW2_TABLE_ENTRY_SIZE;
    if (!r->table_moved && !is_exclusive(planner, table_of(planner, at), AMEND_USE_REFCOUNT_TABLE))
        return false;
    uint8_t *entry = look(planner, &r->table, at, QCOW2_TABLE_ENTRY_SIZE);
    if (!entry)
        return false;
    store_be64(entry, offset);
    mark_changed(&r->table, at);
    return true;
}

/* The entry for the cluster at `offset`, or null: refused, or (*covered is false) there is none. */
static uint8_t *find_refcount(struct planner *planner, struct window *window, uint64_t blocks,
                              uint64_t offset, uint64_t *at, bool *covered)
{
    uint64_t cluster = offset >> planner->header.cluster_bits, block;
    uint64_t index = cluster / entries_per_block(planner);
    *covered = true;
    if (!spend(planner, LOOKUP_WORK) || !get_block(planner, index, &block))
        return 0;
    *covered = block && index < blocks;
    if (!*covered)
        return 0;
    *at = block + cluster % entries_per_block(planner) * REFCOUNT_SIZE;
    return look(planner, window, *at, REFCOUNT_SIZE);
}

/* The refcount that a window shows; `uncovered` where no block below `blocks` holds it. */
static bool read_refcount(struct planner *planner, struct window *window, uint64_t blocks,
                          uint64_t offset, uint32_t uncovered, uint32_t *refcount)
{
    uint64_t at;
    bool covered;
    const uint8_t *entry = find_refcount(planner, window, blocks, offset, &at, &covered);
    *refcount = entry ? load_be16(entry) : uncovered;
    return entry || !covered;
}

bool get_refcount(struct planner *planner, uint64_t offset, uint32_t *refcount)
{
    struct refcounts *r = &planner->refcounts;
    return read_refcount(planner, &r->disk, r->disk_blocks, offset, 0, refcount);
}

bool get_final_refcount(struct planner *planner, uint64_t offset, uint32_t *refcount)
{
    struct refcounts *r = &planner->refcounts;
    return read_refcount(planner, &r->released, r->blocks, offset, 0, refcount);
}

bool get_prepared_refcount(struct planner *planner, uint64_t offset, uint32_t *refcount)
{
    struct refcounts *r = &planner->refcounts;
    return read_refcount(planner, &r->prepared, r->blocks, offset, UINT32_MAX, refcount);
}

bool has_refcount(const struct planner *planner, uint64_t offset)
{
    const struct refcounts *r = &planner->refcounts;
    uint64_t cluster = offset >> planner->header.cluster_bits;
    uint64_t at = r->table_offset + cluster / entries_per_block(planner) * QCOW2_TABLE_ENTRY_SIZE;
    if (!is_in_window(&r->table, at, QCOW2_TABLE_ENTRY_SIZE))
        return false;
    uint64_t block = load_be64(r->table.data + (at - r->table.offset));
    return is_in_window(&r->disk, block + cluster % entries_per_block(planner) * REFCOUNT_SIZE,
                        REFCOUNT_SIZE);
}

bool get_table_refcount(struct planner *planner, uint64_t offset, uint32_t *refcount)
{
    struct refcounts *r = &planner->refcounts;
    if (r->last_table != offset && !get_refcount(planner, offset, &r->last_table_users))
        return false;
    r->last_table = offset;
    *refcount = r->last_table_users;
    return true;
}

static bool set_refcount(struct planner *planner, struct window *window, uint64_t offset,
                         uint32_t refcount)
{
    uint64_t at;
    bool covered;
    uint8_t *entry =
        find_refcount(planner, window, planner->refcounts.blocks, offset, &at, &covered);
    if (!entry || !is_free_of_tables(planner, table_of(planner, at), planner->header.cluster_size,
                                     AMEND_USE_REFCOUNT_BLOCK))
        return false;
    entry[0] = (uint8_t)(refcount >> 8);
    entry[1] = (uint8_t)refcount;
    mark_changed(window, at);
    return true;
}

bool take_cluster(struct planner *planner, uint64_t offset, uint32_t refcount)
{
    struct refcounts *r = &planner->refcounts;
    uint64_t cluster = offset >> planner->header.cluster_bits;
    /* Nothing is ever given up of what a new block counts. */
    bool follow = r->any_released && cluster / entries_per_block(planner) < r->disk_blocks;
    return set_refcount(planner, &r->prepared, offset, refcount) &&
           (!follow || set_refcount(planner, &r->released, offset, refcount));
}

bool release_cluster(struct planner *planner, uint64_t offset, uint32_t references, uint32_t use)
{
    struct refcounts *r = &planner->refcounts;
    uint32_t refcount;
    if (!spend(planner, RELEASE_WORK))
        return false;
    if (!r->any_released && !flush_window(planner, &r->prepared))
        return false;
    r->any_released = true;
    if (!get_final_refcount(planner, offset, &refcount))
        return false;
    if (references == 0 || refcount < references)
        return refuse_refcount(planner, offset, refcount, references);
    if (refcount == references &&
        !is_free_of_tables(planner, offset, planner->header.cluster_size, use))
        return false;
    return set_refcount(planner, &r->released, offset, refcount - references);
}

bool release_clusters(struct planner *planner, uint64_t offset, uint64_t bytes, uint32_t use)
{
    for (uint64_t at = 0; at < bytes; at += planner->header.cluster_size)
        if (!is_exclusive(planner, offset + at, use) ||
            !release_cluster(planner, offset + at, 1, use))
            return false;
    return true;
}

bool flush_refcounts(struct planner *planner)
{
    struct refcounts *r = &planner->refcounts;
    return flush_window(planner, &r->table) && flush_window(planner, &r->prepared) &&
           flush_window(planner, &r->released);
}

/* Find where the refcount table's entries end. */
static bool count_blocks(struct planner *planner)
{
    struct refcounts *r = &planner->refcounts;
    uint8_t *buffer = planner->workspace->prepared;
    uint64_t bytes = r->table_entries * QCOW2_TABLE_ENTRY_SIZE;
    for (uint64_t at = 0; at < bytes; at += PLANNER_WINDOW_SIZE) {
        uint32_t length = (uint32_t)(bytes - at < PLANNER_WINDOW_SIZE ? bytes - at : PLANNER_WINDOW_SIZE);
        if (!read_image(planner, INSTAR_PHASE_PREPARE, r->table_offset + at, buffer, length))
            return false;
        for (uint32_t i = 0; i < length; i += QCOW2_TABLE_ENTRY_SIZE)
            if (load_be64(buffer + i))
                r->disk_blocks = (at + i) / QCOW2_TABLE_ENTRY_SIZE + 1;
    }
    r->blocks = r->disk_blocks;
    return true;
}

bool start_refcounts(struct planner *planner, uint64_t expected)
{
    const struct qcow2_header *h = &planner->header;
    struct planner_workspace *w = planner->workspace;
    struct refcounts *r = &planner->refcounts;
    /* Of small blocks, which may lie anywhere, not much more than one is worth a read. */
    uint32_t disk_window = h->cluster_size > PLANNER_WINDOW_SIZE        ? PLANNER_WINDOW_SIZE
                           : h->cluster_size < PLANNER_SMALL_WINDOW_SIZE ? PLANNER_SMALL_WINDOW_SIZE
                                                                         : h->cluster_size;
    if (r->table_entries) {
        r->total += expected;
        r->expected += expected;
        return true;
    }
    *r = (struct refcounts){
        .table = {w->refcount_table, PLANNER_SMALL_WINDOW_SIZE, SEES_TABLE,
                  INSTAR_PHASE_REFCOUNT_TABLE, .any_order = true},
        .disk = {w->refcounts, disk_window, INSTAR_PHASE_PREPARE, 0, .any_order = true},
        .prepared = {w->prepared, PLANNER_WINDOW_SIZE, INSTAR_PHASE_PREPARE + 1,
                     INSTAR_PHASE_PREPARE, .any_order = true},
        .released = {w->released, PLANNER_WINDOW_SIZE, INSTAR_PHASE_COUNT, INSTAR_PHASE_RELEASE,
                     .any_order = true},
        .table_offset = h->refcount_table_offset,
        .table_entries = ((uint64_t)h->refcount_table_clusters << h->cluster_bits) /
                         QCOW2_TABLE_ENTRY_SIZE,
        .next = 1, /* never the header's cluster */
        .total = expected,
        .expected = expected,
    };
    return count_blocks(planner);
}

/* Have the image use the new refcount table before anything depends on it. */
static bool switch_table(struct planner *planner)
{
    const struct qcow2_header *h = &planner->header;
    const struct refcounts *r = &planner->refcounts;
    uint8_t *header = planner->workspace->old_header;
    uint64_t bytes = r->table_entries * QCOW2_TABLE_ENTRY_SIZE;
    store_be64(header + QCOW2_OFFSET_REFCOUNT_TABLE_OFFSET, r->table_offset);
    store_be32(header + QCOW2_OFFSET_REFCOUNT_TABLE_CLUSTERS, (uint32_t)(bytes >> h->cluster_bits));
    return write_image(planner, INSTAR_PHASE_REFCOUNT_TABLE, 0, header, QCOW2_SECTOR_SIZE) &&
           release_clusters(planner, h->refcount_table_offset,
                            (uint64_t)h->refcount_table_clusters << h->cluster_bits,
                            AMEND_USE_REFCOUNT_TABLE);
}

bool finish_refcounts(struct planner *planner)
{
    if (planner->refcounts.table_moved && !switch_table(planner))
        return false;
    return planner->refcounts.table_entries == 0 || flush_refcounts(planner);
}
