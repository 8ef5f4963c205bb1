/* Pure, either side: finds what version 2 lacks in the L2 tables of the untrusted image ("Standard
 * Cluster Descriptor"), and turns zero clusters into what it has.
 *
 * docs/qcow2.md says what becomes of each kind of zero cluster, and why in this order. All walks may
 * visit a table twice: what has been changed, they see changed.
 */
#include "amend/expand.h"

#include <string.h>

#include "amend/allocate.h"
#include "amend/change.h"
#include "amend/detach.h"
#include "image/writes.h"
#include "qcow2/bytes.h"
#include "qcow2/l2.h"
#include "qcow2/overlap.h"
#include "qcow2/qcow2.h"
#include "qcow2/walk.h"

/* What a visit works with. */
struct expansion {
    struct books *books;
    struct zero_list zeroes;
};

/* Count what the entries of a sector are. Sets *dropped to whether one of them is changed. */
static bool count_sector(struct walk *walk, uint8_t *sector, bool *dropped)
{
    struct downgrade_counts *counts = walk->context;
    *dropped = false;
    for (uint8_t *p = sector; p < sector + SECTOR_SIZE; p += QCOW2_TABLE_ENTRY_SIZE) {
        if (is_compressed_cluster(p)) {
            counts->compressed++;
            if (!is_apart_from_header(walk->image, p))
                return false;
        } else if (is_zero_cluster(p)) {
            bool allocated = load_be64(p) & QCOW2_TABLE_OFFSET_MASK;
            counts->zero++;
            counts->allocated += allocated;
            if (counts->drops && !allocated) {
                store_be64(p, 0);
                *dropped = true;
            }
        }
    }
    return true;
}

static bool count_part(struct walk *walk, const struct io_range *part)
{
    struct downgrade_counts *counts = walk->context;
    for (uint64_t at = 0; at < part->length; at += SECTOR_SIZE) {
        uint64_t zero = counts->zero;
        bool dropped;
        if (!has_flagged(part->buffer + at))
            continue;
        if (!count_sector(walk, part->buffer + at, &dropped) ||
            (dropped && !add_table_sector(walk, part, at)))
            return false;
        if (counts->zero > zero)
            add_table(counts->tables, walk->image, part->offset + at);
    }
    return true;
}

void scan_for_downgrade(struct qcow2_image *image, struct table_set *tables,
                        struct io_sectors *few, struct downgrade_counts *counts)
{
    uint32_t compression = image->header.compression_type;
    struct walk walk = {
        .image = image,
        .phase = INSTAR_PHASE_PREPARE,
        .changes.phase = INSTAR_PHASE_MAPPING,
        .changes.few = few,
        .fills_gaps = true,
        .stages_late = true,
        .snapshots = true,
        .progress_total = 2 * image->l1_entries,
        .visit = count_part,
        .context = counts,
    };
    /* What bitmaps give up must be known before anything is written. */
    *counts = (struct downgrade_counts){
        .drops = !has_backing_file(image) && !image->header.has_bitmaps &&
                 image->file.verdict->count == 0,
        .tables = tables,
        .few = few,
    };
    memset(tables, 0, sizeof(*tables));
    image->header_alone = walk_tables(&walk);
    if (counts->compressed && compression != QCOW2_COMPRESSION_ZLIB)
        refuse(image->file.verdict, REFUSAL_DOWNGRADE_COMPRESSED_CLUSTERS,
               AMEND_ERROR_DOWNGRADE_BLOCKED, counts->compressed, compression, 0);
    /* Zeros would have to be encrypted, and there is no key here. */
    if (counts->zero && is_encrypted(image) && has_backing_file(image))
        refuse(image->file.verdict, REFUSAL_DOWNGRADE_ENCRYPTED_ZEROES,
               AMEND_ERROR_DOWNGRADE_BLOCKED, counts->zero, 0, 0);
}

/* Whether nothing has given up an L2 table that changes: what lies in it too is not of an L2 table, and
 * its refcount does not count its layers. */
static bool is_kept(struct books *books, uint64_t table)
{
    uint64_t users, left;
    if (!get_table_refcount(&books->counts, table, &users) ||
        !get_final_refcount(books, table, &left))
        return false;
    return left == users ||
           refuse_overlap(books->image, table, AMEND_USE_L2_TABLE, AMEND_USE_UNKNOWN);
}

/* Turn a zero cluster into an unallocated one where that reads as zeros, else into zeroed data. */
static bool expand_entry(struct walk *walk, uint64_t place, uint8_t *entry)
{
    struct expansion *expansion = walk->context;
    struct qcow2_image *image = walk->image;
    uint64_t value = load_be64(entry), cluster = value & QCOW2_TABLE_OFFSET_MASK;
    uint64_t table = cluster_of(image, place), table_users;
    uint32_t size = image->header.cluster_size;
    if (cluster) {
        /* It was, unless something has been written over the table since. */
        if (!is_cluster(image, cluster))
            return refuse_entry(image, place, value);
        if (cluster == table)
            return refuse_overlap(image, cluster, AMEND_USE_ZERO_CLUSTER, AMEND_USE_L2_TABLE);
        store_be64(entry, value & ~QCOW2_L2_ZERO);
        return is_free_of_tables(image, cluster, size, AMEND_USE_ZERO_CLUSTER) &&
               add_zeroes(&image->file, &expansion->zeroes, cluster, size);
    }
    if (!has_backing_file(image)) {
        store_be64(entry, 0);
        return true;
    }
    if (!get_table_refcount(&expansion->books->counts, table, &table_users))
        return false;
    if (table_users == 0)
        return refuse_refcount(image, table, 0, 1);
    if (!allocate_clusters(expansion->books, 1, table_users, &cluster) ||
        !add_zeroes(&image->file, &expansion->zeroes, cluster, size))
        return false;
    store_be64(entry, table_users == 1 ? cluster | QCOW2_L2_COPIED : cluster);
    return true;
}

static bool expand_part(struct walk *walk, const struct io_range *part)
{
    const struct expansion *expansion = walk->context;
    uint64_t end = part->offset + part->length;
    uint32_t step = walk->image->header.cluster_size;
    for (uint64_t table = cluster_of(walk->image, part->offset);
         expansion->books->any_released && table < end; table += step)
        if (!is_kept(expansion->books, table))
            return false;
    return change_part(walk, part, is_zero_cluster, expand_entry);
}

static bool expand_all(struct books *books, struct io_segment *segments,
                       const struct downgrade_counts *counts)
{
    struct qcow2_image *image = books->image;
    struct expansion expansion = {.books = books, .zeroes = {.segments = segments}};
    struct walk walk = {
        .image = image,
        .phase = INSTAR_PHASE_MAPPING + 1,
        .changes.phase = INSTAR_PHASE_MAPPING,
        .changes.few = counts->few,
        .fills_gaps = true,
        .only = counts->tables,
        .snapshots = true,
        .progress_from = image->l1_entries,
        .progress_total = 2 * image->l1_entries,
        .visit = expand_part,
        .context = &expansion,
    };
    books->counts.last_table = 0;
    return walk_tables(&walk) && flush_zeroes(&image->file, &expansion.zeroes);
}

bool expand_zero_clusters(struct books *books, union expansion_memory *memory,
                          const struct downgrade_counts *counts)
{
    bool backed = has_backing_file(books->image);
    if (counts->zero == 0 || (counts->drops && !counts->allocated))
        return true;
    if ((counts->allocated || backed) && !expect_clusters(books, backed ? counts->zero : 0))
        return false;
    if (counts->allocated &&
        !detach_zero_clusters(books, &memory->agenda, counts->tables, counts->few))
        return false;
    return expand_all(books, memory->segments, counts);
}
