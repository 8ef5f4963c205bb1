/* Pure, either side: what else uses the clusters of the untrusted image that an operation changes.
 *
 * By its refcount a table that gets new entries has one user. Refcounts may be wrong, so what
 * the header and its extensions name is compared by its place too; of all that L1 and L2 tables name,
 * the host sees to that (vmm/contract/roles.py).
 */
#include "qcow2/overlap.h"

#include "qcow2/bytes.h"
#include "qcow2/geometry.h"
#include "qcow2/l2.h"
#include "qcow2/qcow2.h"
#include "qcow2/walk.h"

/* What the header or an extension names. */
struct region {
    uint64_t offset;
    uint64_t size;
    uint32_t use; /* AMEND_USE_* */
};

bool refuse_overlap(struct qcow2_image *image, uint64_t offset, uint32_t use, uint32_t other)
{
    return refuse(image->file.verdict, REFUSAL_OVERLAP, AMEND_ERROR_PARSE_FAILED,
                  cluster_of(image, offset), use, other);
}

static bool overlap(uint64_t offset, uint64_t size, uint64_t other, uint64_t other_size)
{
    return other_size && (offset < other ? other - offset < size : offset - other < other_size);
}

bool is_free_of_tables(struct qcow2_image *image, uint64_t offset, uint64_t length, uint32_t use)
{
    const struct qcow2_header *h = &image->header;
    const struct region regions[] = {
        {0, h->cluster_size, AMEND_USE_HEADER},
        {h->l1_table_offset, (uint64_t)h->l1_size * QCOW2_TABLE_ENTRY_SIZE, AMEND_USE_L1_TABLE},
        {h->snapshots_offset, image->snapshots_size, AMEND_USE_SNAPSHOT_TABLE},
        {h->refcount_table_offset, (uint64_t)h->refcount_table_clusters << h->cluster_bits,
         AMEND_USE_REFCOUNT_TABLE},
        {h->crypto_offset, h->crypto_length, AMEND_USE_CRYPTO_HEADER},
        {h->bitmap_directory_offset, h->bitmap_directory_size, AMEND_USE_BITMAP_DIRECTORY},
    };
    for (uint32_t i = 0; i < sizeof(regions) / sizeof(*regions); i++)
        if (regions[i].use != use &&
            overlap(offset, length, regions[i].offset, regions[i].size))
            return refuse_overlap(image, offset, use, regions[i].use);
    return true;
}

bool is_exclusive(struct refcounts *refcounts, uint64_t offset, uint32_t use)
{
    struct qcow2_image *image = refcounts->image;
    uint64_t refcount;
    if (!is_free_of_tables(image, offset, image->header.cluster_size, use) ||
        !get_refcount(refcounts, offset, &refcount))
        return false;
    if (refcount == 0)
        return refuse_refcount(image, offset, 0, 1);
    return refcount == 1 || refuse_overlap(image, offset, use, AMEND_USE_UNKNOWN);
}

/* The refcount of the header's cluster; 0 also where the refcount table is not valid. */
static bool get_header_refcount(struct qcow2_image *image, uint64_t *refcount)
{
    const uint8_t *sector;
    *refcount = 0;
    if (!read_sector(image, image->header.refcount_table_offset, &sector))
        return false;
    uint64_t block = load_be64(sector);
    if (!is_cluster(image, block))
        return true;
    if (!read_sector(image, block, &sector))
        return false;
    *refcount = load_refcount(sector, 0, image->header.refcount_order);
    return true;
}

bool is_apart_from_header(struct qcow2_image *image, const uint8_t *entry)
{
    uint32_t bits = image->header.cluster_bits;
    uint64_t offset = load_be64(entry) & ((UINT64_C(1) << (70 - bits)) - 1);
    return offset >> bits || refuse_overlap(image, 0, AMEND_USE_HEADER, AMEND_USE_COMPRESSED);
}

static bool search_part(struct walk *walk, const struct io_range *part)
{
    /* The second half of an extended entry is a bitmap, and refers to nothing. */
    bool extended = has_extended_l2(&walk->image->header);
    uint32_t step = extended ? 2 * QCOW2_TABLE_ENTRY_SIZE : QCOW2_TABLE_ENTRY_SIZE;
    for (const uint8_t *p = part->buffer; p < part->buffer + part->length; p += step)
        if (is_compressed_cluster(p) && !is_apart_from_header(walk->image, p))
            return false;
    return true;
}

bool is_header_alone(struct qcow2_image *image, bool empty)
{
    struct walk walk = {
        .image = image,
        .phase = INSTAR_PHASE_PREPARE,
        .snapshots = true,
        .visit = search_part,
    };
    uint64_t refcount;
    if (image->header_alone)
        return true;
    if (!get_header_refcount(image, &refcount))
        return false;
    if (refcount == 1 && empty)
        return true;
    image->header_alone = walk_tables(&walk);
    return image->header_alone;
}
