/* Pure, either side: writes the untrusted image's refcounts anew ("Host cluster management").
 *
 * The new structures count themselves and not the old ones, so that nothing is to be given up or taken: until
 * the header names the new table the old refcounts are right, and from then on the new ones.
 * The source is read twice: for which blocks there will be, and for what is in them.
 */
#include "amend/recode.h"

#include <string.h>

#include "amend/stream.h"
#include "bits.h"
#include "qcow2/bytes.h"
#include "qcow2/qcow2.h"
#include "qcow2/refcounts.h"

#define BITMAP_SIZE (PLACES_BLOCKS_MAX / 8) /* bytes */
#define BLOCKS_SIZE (BATCH_SIZE - COUNT_SOURCE_SIZE - 2 * BITMAP_SIZE)
#define PIECE 4096u /* of zeros; smaller ones in a file are written */
#define NONE UINT64_MAX
#define PROGRESS_STEPS 50u /* of each of the two times */

struct recoding {
    struct qcow2_image *image;
    const struct count_source *source;
    uint32_t order;      /* of the new refcounts */
    uint32_t block_bits; /* a block has 1 << block_bits of them */
    uint64_t largest;    /* refcount */
    uint64_t *counted;   /* a bit for each new block that counts old clusters */
    uint64_t end;        /* the cluster after the last one that is in use */
    struct places places;
    struct places_cursor next_block, next_mark;
    uint64_t block_mark, table_mark; /* next clusters of the new structures to be counted; NONE */
    uint64_t blocks_marked;
    uint64_t index; /* of the block that is being written; NONE before the first one */
    uint64_t block; /* where it is */
    struct stream blocks, table;
    bool quiet;            /* nothing is told of the progress */
    uint64_t passed, told; /* clusters of both times, for the progress */
};

/* Tell how far it is, at the cluster with this number of the first time or the second. */
static void tell_progress(struct recoding *r, uint64_t cluster)
{
    const struct image *file = &r->image->file;
    uint64_t once = (file->end >> r->image->header.cluster_bits) + 1;
    uint64_t done = r->passed + (cluster < once ? cluster : once);
    if (r->quiet || done - r->told < once / PROGRESS_STEPS)
        return;
    r->told = done;
    report_progress(file, done, 2 * once);
}

/* Show each refcount of the source that is not 0. False: refused. */
static bool visit_counts(struct recoding *r,
                         bool (*visit)(struct recoding *r, uint64_t cluster, uint64_t refcount))
{
    struct stretch s;
    r->source->rewind(r->source->context);
    for (;;) {
        if (!r->source->next(r->source->context, &s))
            return false;
        if (s.count == 0)
            return true;
        tell_progress(r, s.first);
        uint32_t step = 64u >> s.order; /* refcounts in 8 bytes */
        const uint8_t *bytes = s.refcounts;
        for (uint64_t at = 0; at < s.count; at += step, bytes += 8) {
            if (load_be64(bytes) == 0)
                continue;
            for (uint32_t i = 0; i < step; i++) {
                uint64_t refcount = load_refcount(bytes, i, s.order);
                if (refcount && !visit(r, s.first + at + i, refcount))
                    return false;
            }
        }
    }
}

/* First time: which blocks there will be. */
static bool note_count(struct recoding *r, uint64_t cluster, uint64_t refcount)
{
    struct qcow2_image *image = r->image;
    uint64_t index = cluster >> r->block_bits;
    if (refcount > r->largest)
        return refuse(image->file.verdict, REFUSAL_REFCOUNT_OVERFLOW, AMEND_ERROR_REFCOUNT_WIDTH,
                      cluster << image->header.cluster_bits, refcount, UINT64_C(1) << r->order);
    if (index >= PLACES_BLOCKS_MAX)
        return refuse(image->file.verdict, REFUSAL_REFCOUNT_TABLE_FULL, AMEND_ERROR_OVERFLOW,
                      image->header.refcount_table_offset, (index + 1) * QCOW2_TABLE_ENTRY_SIZE,
                      0);
    set_bit(r->counted, index);
    r->end = cluster + 1;
    return true;
}

/* Have the byte at `offset` in the stream. What follows a file's end is zero already. False: refused. */
static bool reach(const struct recoding *r, struct stream *stream, uint64_t offset)
{
    if (offset < stream->end)
        return true;
    if (!r->image->file.fixed_size)
        skip_to(stream, offset & ~(uint64_t)(PIECE - 1));
    return fill_to(stream, (offset & ~(uint64_t)(SECTOR_SIZE - 1)) + SECTOR_SIZE);
}

/* What is left of a block on a device, which has held something else, gets zeros. False: refused. */
static bool close_block(struct recoding *r)
{
    return r->index == NONE || !r->image->file.fixed_size ||
           fill_to(&r->blocks, r->block + r->image->header.cluster_size);
}

static bool open_block(struct recoding *r, uint64_t index)
{
    uint64_t entry = r->places.table << r->image->header.cluster_bits, place;
    entry += index * QCOW2_TABLE_ENTRY_SIZE;
    /* All blocks that are needed get counts, so that there is a place. */
    if (!close_block(r) || !next_place(&r->places, &r->next_block, &place) ||
        !reach(r, &r->table, entry))
        return false;
    r->index = index;
    r->block = place << r->image->header.cluster_bits;
    store_be64(byte_at(&r->table, entry), r->block);
    skip_to(&r->blocks, r->block);
    return true;
}

static bool put_count(struct recoding *r, uint64_t cluster, uint64_t refcount)
{
    uint64_t at = cluster & ((UINT64_C(1) << r->block_bits) - 1);
    uint64_t bit = at << r->order;
    if (cluster >> r->block_bits != r->index && !open_block(r, cluster >> r->block_bits))
        return false;
    if (!reach(r, &r->blocks, r->block + bit / 8))
        return false;
    store_refcount(byte_at(&r->blocks, r->block + bit / 8), bit % 8 >> r->order, r->order,
                   refcount);
    return true;
}

/* Go on to the next new block that is to be counted. */
static void next_block_mark(struct recoding *r)
{
    if (r->blocks_marked++ == r->places.blocks ||
        !next_place(&r->places, &r->next_mark, &r->block_mark))
        r->block_mark = NONE;
}

/* Count those clusters of the new structures that lie before this one. False: refused. */
static bool put_marks(struct recoding *r, uint64_t cluster)
{
    while (r->block_mark < cluster || r->table_mark < cluster) {
        bool is_table = r->table_mark < r->block_mark;
        if (!put_count(r, is_table ? r->table_mark : r->block_mark, 1))
            return false;
        if (!is_table)
            next_block_mark(r);
        else if (++r->table_mark == r->places.table + r->places.table_size)
            r->table_mark = NONE;
    }
    return true;
}

/* Second time: what is in the blocks. */
static bool write_count(struct recoding *r, uint64_t cluster, uint64_t refcount)
{
    return put_marks(r, cluster) && put_count(r, cluster, refcount);
}

/* The end of the file is that of a cluster; on a device all of the table is written. False: refused. */
static bool finish(struct recoding *r)
{
    uint32_t bits = r->image->header.cluster_bits;
    uint64_t table_end = (r->places.table + r->places.table_size) << bits;
    uint64_t end = r->block + r->image->header.cluster_size;
    if (!r->image->file.fixed_size)
        skip_to(&r->blocks, end - SECTOR_SIZE);
    else if (!fill_to(&r->table, table_end))
        return false;
    return fill_to(&r->blocks, end) && finish_stream(&r->blocks) && finish_stream(&r->table);
}

static bool write_structures(struct recoding *r)
{
    struct qcow2_memory *memory = r->image->memory;
    uint32_t bits = r->image->header.cluster_bits;
    start_stream(&r->table, &r->image->file, memory->other_table, TABLE_SIZE,
                 r->places.table << bits);
    start_stream(&r->blocks, &r->image->file,
                 memory->batch + COUNT_SOURCE_SIZE + 2 * BITMAP_SIZE, BLOCKS_SIZE, 0);
    r->index = NONE;
    r->table_mark = r->places.table;
    next_block_mark(r);
    r->passed = (r->image->file.end >> bits) + 1;
    return visit_counts(r, write_count) && put_marks(r, NONE) && finish(r);
}

static struct recoding start_recoding(struct qcow2_image *image, const struct count_source *source,
                                      uint32_t order)
{
    struct recoding r = {
        .image = image,
        .source = source,
        .order = order,
        .block_bits = image->header.cluster_bits + 3 - order,
        .largest = largest_refcount(order),
        .counted = image->memory->words + COUNT_SOURCE_SIZE / sizeof(uint64_t),
    };
    memset(r.counted, 0, BITMAP_SIZE);
    return r;
}

bool fits_width(struct qcow2_image *image, const struct count_source *source, uint32_t order)
{
    struct recoding r = start_recoding(image, source, order);
    r.quiet = true;
    return visit_counts(&r, note_count);
}

bool recode(struct qcow2_image *image, struct recode_memory *memory,
            const struct count_source *source, uint32_t order, struct refcount_table *table)
{
    struct recoding r = start_recoding(image, source, order);
    r.places = (struct places){
        .image = image,
        .tell_free = source->tell_free,
        .context = source->context,
        .runs = memory->runs,
    };
    if (!visit_counts(&r, note_count) ||
        !find_places(&r.places, r.counted, r.counted + BITMAP_SIZE / sizeof(uint64_t),
                     r.block_bits, r.end) ||
        !write_structures(&r))
        return false;
    *table = (struct refcount_table){
        .offset = r.places.table << image->header.cluster_bits,
        .clusters = (uint32_t)r.places.table_size,
    };
    return true;
}
