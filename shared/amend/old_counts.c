/* Pure, either side: reads the untrusted image's refcounts from first to last, many blocks at a time. */
#include "amend/old_counts.h"

#include <string.h>

#include "bits.h"
#include "qcow2/bytes.h"
#include "qcow2/overlap.h"
#include "qcow2/qcow2.h"

#define BUFFER_SIZE (COUNT_SOURCE_SIZE / 2)
#define PART_SIZE 0x10000u
/* Clusters in a row of which it is known at a time whether they belong to structures. */
#define SPAN_BITS 21u
#define SPAN_SIZE (1u << SPAN_BITS >> 3) /* bytes */

_Static_assert(BUFFER_SIZE + SPAN_SIZE <= COUNT_SOURCE_SIZE, "recode() has the rest");
_Static_assert(PART_SIZE * 8 <= 1u << SPAN_BITS, "a part lies in one span");

static struct qcow2_image *image_of(const struct old_counts *old)
{
    return old->refcounts->image;
}

static uint64_t *span_bits(const struct old_counts *old)
{
    return image_of(old)->memory->words + BUFFER_SIZE / sizeof(uint64_t);
}

static uint32_t part_size(const struct old_counts *old)
{
    uint32_t cluster_size = image_of(old)->header.cluster_size;
    return cluster_size < PART_SIZE ? cluster_size : PART_SIZE;
}

static void rewind_counts(void *context)
{
    struct old_counts *old = context;
    old->index = old->given_up = 0;
    old->at = old->parts = old->next = 0;
}

/* Note that a structure has this cluster, if the span does. False: refused, another block has it. */
static bool add_structure(struct old_counts *old, uint64_t cluster)
{
    uint64_t *bits = span_bits(old), at = cluster & ((UINT64_C(1) << SPAN_BITS) - 1);
    if (cluster >> SPAN_BITS != old->span)
        return true;
    if (has_bit(bits, at))
        return refuse_overlap(image_of(old), cluster << image_of(old)->header.cluster_bits,
                              AMEND_USE_REFCOUNT_BLOCK, AMEND_USE_REFCOUNT_BLOCK);
    set_bit(bits, at);
    return true;
}

/* Know the structures' clusters of a span. */
static bool know_span(struct old_counts *old, uint64_t span)
{
    struct qcow2_image *image = image_of(old);
    const struct qcow2_header *h = &image->header;
    uint64_t bytes = old->refcounts->disk_blocks * QCOW2_TABLE_ENTRY_SIZE;
    uint8_t *buffer = image->memory->table;
    if (old->span_known && old->span == span)
        return true;
    old->span = span;
    old->span_known = true;
    memset(span_bits(old), 0, SPAN_SIZE);
    for (uint32_t i = 0; i < h->refcount_table_clusters; i++)
        if (!add_structure(old, (h->refcount_table_offset >> h->cluster_bits) + i))
            return false;
    for (uint64_t at = 0; at < bytes; at += TABLE_SIZE) {
        uint32_t length = (uint32_t)(bytes - at < TABLE_SIZE ? bytes - at : TABLE_SIZE);
        if (!read_image(&image->file, INSTAR_PHASE_PREPARE, h->refcount_table_offset + at, buffer,
                        length))
            return false;
        for (uint32_t i = 0; i < length; i += QCOW2_TABLE_ENTRY_SIZE) {
            uint64_t block = load_be64(buffer + i);
            if (block && !add_structure(old, block >> h->cluster_bits))
                return false;
        }
    }
    return true;
}

/* Take a user off each structure that these refcounts count. */
static bool give_up(struct old_counts *old, uint64_t first, uint64_t count, uint8_t *refcounts)
{
    const uint64_t *bits = span_bits(old);
    uint32_t order = image_of(old)->header.refcount_order;
    if (!know_span(old, first >> SPAN_BITS))
        return false;
    uint64_t start = first & ((UINT64_C(1) << SPAN_BITS) - 1);
    for (uint64_t i = 0; i < count; i++) {
        if ((start + i) % 64 == 0 && bits[(start + i) / 64] == 0) {
            i += 63;
            continue;
        }
        uint64_t refcount = has_bit(bits, start + i) ? load_refcount(refcounts, i, order) : 0;
        if (refcount == 0)
            continue;
        store_refcount(refcounts, i, order, refcount - 1);
        old->given_up++;
    }
    return true;
}

/* Read the next parts of blocks, with few requests. There is none after the last one. */
static bool read_parts(struct old_counts *old)
{
    struct qcow2_image *image = image_of(old);
    struct io_range ranges[IO_RANGES_MAX];
    uint32_t size = part_size(old), order = image->header.refcount_order, reads = 0;
    old->parts = old->next = 0;
    while (old->index < old->refcounts->disk_blocks && old->parts < IO_RANGES_MAX &&
           (old->parts + 1) * size <= BUFFER_SIZE) {
        uint64_t block, limit = image->file.end;
        if (!get_block(old->refcounts, old->index, &block))
            return false;
        if (block) {
            uint64_t offset = block + old->at, left = offset < limit ? limit - offset : 0;
            uint8_t *buffer = image->memory->batch + old->parts * size;
            old->firsts[old->parts++] =
                old->index * entries_per_block(image) + ((uint64_t)old->at * 8 >> order);
            if (left < size)
                memset(buffer, 0, size);
            if (left)
                ranges[reads++] = (struct io_range){offset, left < size ? left : size, buffer};
            old->at += size;
        }
        if (block == 0 || old->at == image->header.cluster_size) {
            old->index++;
            old->at = 0;
        }
    }
    return read_ranges(&image->file, INSTAR_PHASE_PREPARE, ranges, reads);
}

/* Refuse, as one of the structures has no refcount: find the first one. */
static bool refuse_uncounted(struct old_counts *old)
{
    struct qcow2_image *image = image_of(old);
    const struct qcow2_header *h = &image->header;
    uint64_t refcount, offset;
    for (uint64_t i = 0; i < h->refcount_table_clusters + old->refcounts->disk_blocks; i++) {
        offset = h->refcount_table_offset + (i << h->cluster_bits);
        if (i >= h->refcount_table_clusters &&
            !get_block(old->refcounts, i - h->refcount_table_clusters, &offset))
            return false;
        if (offset && !get_refcount(old->refcounts, offset, &refcount))
            return false;
        if (offset && refcount == 0)
            return refuse_refcount(image, offset, 0, 1);
    }
    return refuse_refcount(image, h->refcount_table_offset, 0, 1);
}

static bool next_counts(void *context, struct stretch *stretch)
{
    struct old_counts *old = context;
    uint32_t size = part_size(old), order = image_of(old)->header.refcount_order;
    stretch->count = 0;
    for (;;) {
        if (old->next == old->parts && !read_parts(old))
            return false;
        if (old->parts == 0)
            return old->given_up == old->structures || refuse_uncounted(old);
        uint64_t first = old->firsts[old->next], count = (uint64_t)size * 8 >> order;
        uint8_t *bytes = image_of(old)->memory->batch + old->next++ * size;
        if (is_zero(bytes, size))
            continue;
        *stretch = (struct stretch){first, count, order, bytes};
        return give_up(old, first, count, bytes);
    }
}

/* Whether a cluster is free as the image is: the old structures are not, before the switch. */
static bool tell_if_free(void *context, uint64_t cluster, bool *is_free)
{
    struct old_counts *old = context;
    uint64_t refcount;
    if (!get_refcount(old->refcounts, cluster << image_of(old)->header.cluster_bits, &refcount))
        return false;
    *is_free = refcount == 0;
    return true;
}

bool open_old_counts(struct old_counts *old, struct refcounts *refcounts)
{
    struct qcow2_image *image = refcounts->image;
    const struct qcow2_header *h = &image->header;
    uint64_t block, refcount;
    *old = (struct old_counts){
        .refcounts = refcounts,
        .structures = h->refcount_table_clusters,
    };
    if (!get_refcount(refcounts, 0, &refcount))
        return false;
    if (refcount == 0)
        return refuse_refcount(image, 0, 0, 1);
    if (!is_free_of_tables(image, h->refcount_table_offset,
                           (uint64_t)h->refcount_table_clusters << h->cluster_bits,
                           AMEND_USE_REFCOUNT_TABLE))
        return false;
    for (uint64_t index = 0; index < refcounts->disk_blocks; index++) {
        if (!get_block(refcounts, index, &block) ||
            (block && !is_free_of_tables(image, block, h->cluster_size, AMEND_USE_REFCOUNT_BLOCK)))
            return false;
        old->structures += block != 0;
    }
    return true;
}

struct count_source old_counts_source(struct old_counts *old)
{
    return (struct count_source){
        .context = old,
        .rewind = rewind_counts,
        .next = next_counts,
        .tell_free = tell_if_free,
    };
}
