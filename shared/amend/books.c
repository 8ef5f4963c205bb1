/* Pure, either side: raises and lowers the untrusted image's refcounts.
 *
 * Clusters are taken in INSTAR_PHASE_PREPARE and given up in INSTAR_PHASE_RELEASE, so one sector of
 * refcounts may be written in both: as soon as anything is given up, both windows follow each change.
 */
#include "amend/books.h"

#include <string.h>

#include "image/writes.h"
#include "qcow2/bytes.h"
#include "qcow2/overlap.h"
#include "qcow2/qcow2.h"

/* Cost of giving up a cluster, here and in the host's books, in bytes read. */
#define RELEASE_WORK 1024u

/* Blocks lie at a distance that is a power of two. */
#define SPREAD UINT64_C(0x9e3779b97f4a7c15)

#define SEES_TABLE (INSTAR_PHASE_REFCOUNT_TABLE + 1)

void open_books(struct books *books, struct books_memory *memory, struct qcow2_image *image)
{
    *books = (struct books){
        .image = image,
        .memory = memory,
        .prepared = {memory->prepared, WINDOW_SIZE, INSTAR_PHASE_PREPARE + 1, INSTAR_PHASE_PREPARE,
                     .any_order = true},
        .released = {memory->released, WINDOW_SIZE, INSTAR_PHASE_COUNT, INSTAR_PHASE_RELEASE,
                     .any_order = true},
        .next = 1, /* never the header's cluster */
    };
}

/* How many clusters the file may have to grow by for all that is expected: if that does not fit the
 * stretch that has refcounts (allocate.c), new blocks and perhaps a table come after that, too. */
static uint64_t tell_growth(const struct books *books)
{
    const struct refcounts *r = &books->counts;
    uint64_t per_block = entries_per_block(books->image);
    uint64_t end = books->image->file.io->size >> books->image->header.cluster_bits;
    uint64_t room = r->blocks * per_block > end ? r->blocks * per_block - end : 0;
    if (room > books->total)
        return books->total + 1;
    uint64_t blocks = books->total / (per_block - 1) + 1 + BLOCKS_AT_ONCE, table = 0;
    if (r->blocks + blocks > r->table_entries)
        table = ((r->blocks + 2 * blocks) * QCOW2_TABLE_ENTRY_SIZE >>
                 books->image->header.cluster_bits) + 1;
    return room + books->total + blocks + table + 1;
}

bool expect_clusters(struct books *books, uint64_t count)
{
    books->total += count;
    books->expected += count;
    if (books->counts.table_entries == 0 &&
        !start_refcounts(&books->counts, books->image, SEES_TABLE))
        return false;
    books->image->file.growth_needed = tell_growth(books) << books->image->header.cluster_bits;
    return true;
}

bool get_final_refcount(struct books *books, uint64_t offset, uint64_t *refcount)
{
    bool covered;
    return read_refcount(&books->counts, &books->released, books->counts.blocks, offset, refcount,
                         &covered);
}

bool get_prepared_refcount(struct books *books, uint64_t offset, uint64_t *refcount, bool *covered)
{
    return read_refcount(&books->counts, &books->prepared, books->counts.blocks, offset, refcount,
                         covered);
}

static bool set_refcount(struct books *books, struct window *window, uint64_t offset,
                         uint64_t refcount)
{
    struct qcow2_image *image = books->image;
    struct refcount_place place;
    bool covered;
    if (!find_refcount(&books->counts, window, books->counts.blocks, offset, &place, &covered) ||
        !covered ||
        !is_free_of_tables(image, cluster_of(image, place.at), image->header.cluster_size,
                           AMEND_USE_REFCOUNT_BLOCK))
        return false;
    store_refcount(place.bytes, place.index, image->header.refcount_order, refcount);
    mark_changed(window, place.at);
    return true;
}

bool take_cluster(struct books *books, uint64_t offset, uint64_t references)
{
    uint64_t cluster = offset >> books->image->header.cluster_bits;
    uint64_t index = cluster / entries_per_block(books->image);
    uint64_t largest = largest_refcount(books->image->header.refcount_order);
    /* Nothing is ever given up of what a new block counts. */
    bool follow = books->any_released && index < books->counts.disk_blocks;
    if (references > largest)
        return refuse_refcount(books->image, offset, largest, references);
    return set_refcount(books, &books->prepared, offset, references) &&
           (!follow || set_refcount(books, &books->released, offset, references));
}

bool set_block(struct books *books, uint64_t index, uint64_t offset)
{
    struct refcounts *c = &books->counts;
    uint64_t at = c->table_offset + index * QCOW2_TABLE_ENTRY_SIZE;
    if (!books->table_moved &&
        !is_exclusive(c, cluster_of(books->image, at), AMEND_USE_REFCOUNT_TABLE))
        return false;
    uint8_t *entry = look(&books->image->file, &c->table, at, QCOW2_TABLE_ENTRY_SIZE);
    if (!entry)
        return false;
    store_be64(entry, offset);
    mark_changed(&c->table, at);
    return true;
}

/* Where the set of refcount blocks has this one, or would have it. */
static uint64_t *slot_of(struct books *books, uint64_t block)
{
    uint64_t at = (block >> books->image->header.cluster_bits) * SPREAD >> 32, *slot;
    do
        slot = &books->memory->blocks[at++ % BLOCK_SLOTS];
    while (*slot && *slot != block);
    return slot;
}

/* Before anything is given up, note the refcount blocks: of more, the host sees to that. */
static bool start_releases(struct books *books)
{
    uint64_t block;
    memset(books->memory->blocks, 0, sizeof(books->memory->blocks));
    for (uint64_t index = 0; index < books->counts.disk_blocks && index < BLOCK_SLOTS / 2; index++) {
        if (!get_block(&books->counts, index, &block))
            return false;
        if (block)
            *slot_of(books, block) = block;
    }
    books->any_released = true;
    return flush_window(&books->image->file, &books->prepared);
}

bool release_cluster(struct books *books, uint64_t offset, uint64_t references, uint32_t use)
{
    uint64_t refcount;
    if (!spend(&books->image->file.budget, RELEASE_WORK))
        return false;
    if (!books->any_released && !start_releases(books))
        return false;
    /* What is given up is read until the switch, and refcounts are written before it. */
    if (*slot_of(books, offset))
        return refuse_overlap(books->image, offset, use, AMEND_USE_REFCOUNT_BLOCK);
    if (!get_final_refcount(books, offset, &refcount))
        return false;
    if (references == 0 || refcount < references)
        return refuse_refcount(books->image, offset, refcount, references);
    if (refcount == references &&
        !is_free_of_tables(books->image, offset, books->image->header.cluster_size, use))
        return false;
    books->any_left_alone |= refcount - references == 1;
    return set_refcount(books, &books->released, offset, refcount - references);
}

bool release_clusters(struct books *books, uint64_t offset, uint64_t bytes, uint32_t use)
{
    for (uint64_t at = 0; at < bytes; at += books->image->header.cluster_size)
        if (!release_cluster(books, offset + at, 1, use))
            return false;
    return true;
}

static bool flush_windows(struct books *books)
{
    struct image *file = &books->image->file;
    return flush_window(file, &books->counts.table) && flush_window(file, &books->prepared) &&
           flush_window(file, &books->released);
}

bool empty_windows(struct books *books, uint8_t **scratch)
{
    if (!flush_windows(books))
        return false;
    books->prepared.loaded = books->released.loaded = false;
    *scratch = books->memory->prepared;
    return true;
}

/* Have the image use the new refcount table before anything depends on it. */
static bool switch_table(struct books *books, uint8_t *sector)
{
    struct qcow2_image *image = books->image;
    const struct qcow2_header *h = &image->header;
    uint64_t bytes = books->counts.table_entries * QCOW2_TABLE_ENTRY_SIZE;
    memcpy(sector, image->memory->header, SECTOR_SIZE);
    store_be64(sector + QCOW2_OFFSET_REFCOUNT_TABLE_OFFSET, books->counts.table_offset);
    store_be32(sector + QCOW2_OFFSET_REFCOUNT_TABLE_CLUSTERS, (uint32_t)(bytes >> h->cluster_bits));
    return write_image(&image->file, INSTAR_PHASE_REFCOUNT_TABLE, 0, sector, SECTOR_SIZE) &&
           release_clusters(books, h->refcount_table_offset,
                            (uint64_t)h->refcount_table_clusters << h->cluster_bits,
                            AMEND_USE_REFCOUNT_TABLE);
}

bool finish_books(struct books *books, uint8_t *sector)
{
    if (books->table_moved && !switch_table(books, sector))
        return false;
    return books->counts.table_entries == 0 || flush_windows(books);
}
