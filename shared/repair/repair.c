/* Pure, either side: repairs the untrusted image's refcounts and flags by what its tables say.
 *
 * All that is not the refcounts' own is counted first. What cannot be, such as an entry that names nothing in the
 * image, or a cluster with two uses, is refused: only a guess could mend it. Then the refcount table and its
 * blocks are looked at: if each has clusters of its own, and no refcount is too low, those that are too high
 * fall where they are. Else the counts are written as new refcounts (recode.c), and what the old ones
 * occupy is free once the header names the new ones.
 */
#include "repair/repair.h"

#include <string.h>

#include "repair/counted.h"
#include "repair/mend_flags.h"
#include "amend/recode.h"
#include "bits.h"
#include "image/writes.h"
#include "inspect/check.h"
#include "qcow2/bytes.h"
#include "qcow2/extensions.h"
#include "qcow2/qcow2.h"
#include "qcow2/refcounts.h"

struct repair {
    struct qcow2_image *image;
    struct counts counts;
    uint64_t clusters;         /* of the file; no other is referred to */
    struct CheckFinding first; /* that keeps the image from being repaired */
    uint64_t borne;            /* findings that do not */
    struct budget *counting;   /* what is left for the count */
    bool sound;                /* refcount table and blocks have clusters of their own */
    uint64_t low, high;        /* refcounts that are too low, or too high */
};

static bool is_data(uint64_t use)
{
    return use == AMEND_USE_DATA || use == AMEND_USE_COMPRESSED;
}

/* Whether the image can be repaired all the same: snapshots are no affair of a repair, and guest data that
 * lie in one cluster are safe once it counts as shared. */
static bool is_borne(const struct CheckFinding *finding)
{
    return finding->kind == CHECK_SNAPSHOT_INCOMPLETE ||
           (finding->kind == CHECK_OVERLAP && is_data(finding->detail[1]) &&
            is_data(finding->detail[2]));
}

/* Take findings, as sink.send has it. */
static void take_findings(void *context, uint32_t type, const void *payload, uint32_t length)
{
    struct repair *repair = context;
    struct CheckFinding finding;
    (void)type;
    for (uint32_t at = 0; at < length; at += (uint32_t)sizeof(finding)) {
        memcpy(&finding, (const uint8_t *)payload + at, sizeof(finding));
        if (is_borne(&finding))
            repair->borne++;
        else if (repair->first.kind == 0)
            repair->first = finding;
    }
    if (repair->first.kind)
        repair->counting->left = 0; /* no need to go on, and there may be millions */
}

static bool refuse_finding(struct repair *repair)
{
    struct verdict *verdict = repair->image->file.verdict;
    const struct CheckFinding *first = &repair->first;
    uint32_t order = repair->image->header.refcount_order;
    if (first->kind == CHECK_OVERLAP)
        return refuse(verdict, REFUSAL_OVERLAP, AMEND_ERROR_PARSE_FAILED, first->detail[0],
                      first->detail[1], first->detail[2]);
    if (first->kind == CHECK_REFCOUNT_OVERFLOW)
        return refuse(verdict, REFUSAL_REFCOUNT_OVERFLOW, AMEND_ERROR_REFCOUNT_WIDTH,
                      first->detail[0], largest_refcount(order) + 1, UINT64_C(1) << order);
    return refuse(verdict, REFUSAL_REPAIR_ENTRY, AMEND_ERROR_REPAIR, first->kind, first->detail[0],
                  first->detail[1]);
}

/* What an unknown extension names would be lost. */
static bool check_extensions(struct repair *repair)
{
    struct qcow2_image *image = repair->image;
    struct extension extension;
    uint32_t at = image->header.header_length;
    while (next_extension(image, &at, &extension))
        if (extension.type != QCOW2_EXTENSION_BACKING_FORMAT &&
            extension.type != QCOW2_EXTENSION_DATA_FILE &&
            extension.type != QCOW2_EXTENSION_FEATURE_NAMES &&
            extension.type != QCOW2_EXTENSION_BITMAPS && extension.type != QCOW2_EXTENSION_CRYPTO)
            return refuse(image->file.verdict, REFUSAL_REPAIR_EXTENSION, AMEND_ERROR_REPAIR,
                          extension.type, extension.offset, 0);
    return true;
}

/* Have room to count each cluster that there is, and one more. False: refused. */
static bool start_counts(struct repair *repair, const struct repair_memory *memory)
{
    struct qcow2_image *image = repair->image;
    struct counts *counts = &repair->counts;
    const struct qcow2_header *h = &image->header;
    uint64_t clusters = round_up(image->file.io->size, h->cluster_size) >> h->cluster_bits;
    counts->wide = h->refcount_order > QCOW2_REFCOUNT_ORDER_DEFAULT;
    uint64_t most = room_for_counts(memory->size, counts->wide);
    if (clusters >= most)
        return refuse(image->file.verdict, REFUSAL_REPAIR_TOO_LARGE, AMEND_ERROR_REPAIR, clusters,
                      most, 0);
    counts->size = clusters + 1;
    counts->memory = memory->counts;
    repair->clusters = clusters;
    uint64_t used = place_uses(counts);
    if (!spend(&image->file.budget, used))
        return false;
    memset(counts->memory, 0, used);
    return true;
}

/* Count all but the refcount structures. False: refused. */
static bool count_image(struct repair *repair, struct record_list *findings)
{
    struct CheckResult result;
    const struct sink sink = {repair, take_findings};
    struct checking checking = {
        .image = *repair->image,
        .records = findings,
        .result = &result,
        .counts = repair->counts,
        .file_clusters = repair->clusters,
        .clusters = repair->clusters,
        .once = true,
    };
    memset(&result, 0, sizeof(result));
    repair->counting = &checking.image.file.budget;
    start_records(findings, &sink, FRAME_CHECK_FINDINGS);
    bool counted = count_contents(&checking);
    end_records(findings);
    if (checking.clusters > repair->clusters && repair->first.kind == 0)
        repair->first = (struct CheckFinding){
            CHECK_REGION_OUTSIDE, 0, {repair->clusters << checking.image.header.cluster_bits, 0, 0}};
    *repair->image = checking.image;
    if (repair->first.kind) {
        start_verdict(repair->image->file.verdict); /* the count may have ended early for it */
        return refuse_finding(repair);
    }
    if (!counted)
        return false;
    return result.corruptions + result.overlaps + result.check_errors == repair->borne ||
           refuse_finding(repair);
}

/* Count a cluster of a refcount structure, or stop counting it. */
static void mark(struct repair *repair, uint64_t cluster, uint32_t use, bool count)
{
    uint8_t *found = use_of(&repair->counts, cluster);
    if (count && get_count(&repair->counts, cluster) == 0)
        *found = (uint8_t)((*found & ~USE_MASK) | use);
    else if (count)
        repair->sound = false;
    if ((*found & USE_MASK) == use)
        set_count(&repair->counts, cluster, count);
}

/* Count the refcount table and its blocks, or stop counting them. False: refused. */
static bool mark_structures(struct repair *repair, bool count)
{
    struct qcow2_image *image = repair->image;
    const struct qcow2_header *h = &image->header;
    uint64_t bytes = (uint64_t)h->refcount_table_clusters << h->cluster_bits;
    uint64_t clusters = round_up(image->file.io->size, h->cluster_size) >> h->cluster_bits;
    uint8_t *part = image->memory->table;
    for (uint32_t i = 0; i < h->refcount_table_clusters; i++)
        mark(repair, (h->refcount_table_offset >> h->cluster_bits) + i, AMEND_USE_REFCOUNT_TABLE,
             count);
    for (uint64_t at = 0; at < bytes; at += QCOW2_TABLE_ENTRY_SIZE) {
        uint64_t left = bytes - at;
        if (at % TABLE_SIZE == 0 &&
            !read_image(&image->file, INSTAR_PHASE_PREPARE, h->refcount_table_offset + at, part,
                        left < TABLE_SIZE ? (uint32_t)left : TABLE_SIZE))
            return false;
        uint64_t entry = load_be64(part + at % TABLE_SIZE), cluster = entry >> h->cluster_bits;
        if (entry == 0)
            continue;
        repair->sound &= !(entry & QCOW2_REFCOUNT_TABLE_RESERVED) && entry % h->cluster_size == 0;
        if (cluster < clusters)
            mark(repair, cluster, AMEND_USE_REFCOUNT_BLOCK, count);
        else
            repair->sound = false;
    }
    return true;
}

/* Compare refcounts, which have been read, with the counts of clusters from `first` on. Those that are too high are
 * noted, or lowered if there is a list for the sectors. False: refused. */
static bool compare_part(struct repair *repair, uint64_t first, uint64_t end, uint64_t offset,
                         uint8_t *refcounts, struct write_list *lowered)
{
    uint32_t order = repair->image->header.refcount_order;
    uint64_t step = SECTOR_SIZE * UINT64_C(8) >> order; /* refcounts in a sector */
    for (uint64_t at = 0; first < end; first += step, at += SECTOR_SIZE) {
        bool changed = false;
        for (uint64_t i = 0; i < step && first + i < end; i++) {
            uint64_t count = get_count(&repair->counts, first + i);
            uint64_t refcount = load_refcount(refcounts + at, i, order);
            if (refcount > count && lowered)
                store_refcount(refcounts + at, i, order, count);
            changed |= refcount > count;
            repair->high += !lowered && refcount > count;
            repair->low += !lowered && refcount < count;
        }
        if (changed && lowered &&
            !add_write(&repair->image->file, lowered, offset + at, refcounts + at,
                       SECTOR_SIZE))
            return false;
    }
    return !lowered || flush_writes(&repair->image->file, lowered);
}

/* The same for all that one entry of the refcount table is about. */
static bool compare_block(struct repair *repair, uint64_t index, uint64_t block,
                          struct write_list *lowered)
{
    struct qcow2_image *image = repair->image;
    uint32_t size = image->header.cluster_size, bytes = size < TABLE_SIZE ? size : TABLE_SIZE;
    uint64_t per_part = bytes * UINT64_C(8) >> image->header.refcount_order;
    uint64_t first = index * entries_per_block(image), end = first + entries_per_block(image);
    end = end < repair->clusters ? end : repair->clusters;
    for (; first < end; first += per_part, block += bytes) {
        uint64_t last = first + per_part < end ? first + per_part : end;
        if (!spend(&image->file.budget, last - first) ||
            !read_image(&image->file, INSTAR_PHASE_PREPARE, block, image->memory->other_table,
                        bytes) ||
            !compare_part(repair, first, last, block, image->memory->other_table, lowered))
            return false;
    }
    return true;
}

/* The same for the clusters that no block is about. */
static bool compare_nothing(struct repair *repair, uint64_t first)
{
    uint64_t end = first + entries_per_block(repair->image);
    end = end < repair->clusters ? end : repair->clusters;
    for (uint64_t cluster = first; cluster < end; cluster++)
        repair->low += get_count(&repair->counts, cluster) != 0;
    return spend(&repair->image->file.budget, end - first);
}

/* Compare all refcounts, or lower those that are too high. False: refused. */
static bool compare_all(struct repair *repair, struct write_list *lowered)
{
    struct qcow2_image *image = repair->image;
    const struct qcow2_header *h = &image->header;
    uint64_t bytes = (uint64_t)h->refcount_table_clusters << h->cluster_bits;
    uint64_t per_block = entries_per_block(image);
    uint8_t *part = image->memory->table;
    for (uint64_t index = 0; index * per_block < repair->clusters; index++) {
        uint64_t at = index * QCOW2_TABLE_ENTRY_SIZE, left = at < bytes ? bytes - at : 0;
        if (left && at % TABLE_SIZE == 0 &&
            !read_image(&image->file, INSTAR_PHASE_PREPARE, h->refcount_table_offset + at, part,
                        left < TABLE_SIZE ? (uint32_t)left : TABLE_SIZE))
            return false;
        uint64_t block = left ? load_be64(part + at % TABLE_SIZE) : 0;
        if (block ? !compare_block(repair, index, block, lowered)
                  : !compare_nothing(repair, index * per_block))
            return false;
    }
    return true;
}

/* Write the counts as new refcounts. False: refused. */
static bool rewrite(struct repair *repair, struct target *target, struct recode_memory *memory)
{
    struct refcount_table table;
    struct counted counted = {repair->image, &repair->counts, repair->clusters, 0};
    const struct count_source source = counted_source(&counted);
    if (!mark_structures(repair, false) ||
        !recode(repair->image, memory, &source, target->refcount_order, &table))
        return false;
    target->refcount_table_offset = table.offset;
    target->refcount_table_clusters = table.clusters;
    return true;
}

static bool lower(struct repair *repair)
{
    struct write_list lowered = {.phase = INSTAR_PHASE_PREPARE};
    return repair->high == 0 || compare_all(repair, &lowered);
}

bool stage_repair(struct qcow2_image *image, struct target *target,
                  struct recode_memory *recoded, struct repair_memory *memory,
                  enum repair_extent extent)
{
    struct repair repair = {.image = image, .sound = true};
    if (!check_extensions(&repair) || !start_counts(&repair, memory) ||
        !count_image(&repair, &memory->findings) || !mark_structures(&repair, true) ||
        (repair.sound && !compare_all(&repair, 0)))
        return false;
    bool right = repair.sound && repair.low == 0;
    if (extent == REPAIR_LEAKS && !repair.sound)
        return refuse(image->file.verdict, REFUSAL_REPAIR_REFCOUNTS, AMEND_ERROR_REPAIR,
                      target->refcount_table_offset, 0, 0);
    if (right || extent == REPAIR_LEAKS ? !lower(&repair)
                                        : !rewrite(&repair, target, recoded))
        return false;
    if (!right && extent == REPAIR_LEAKS)
        return true;
    target->incompatible_features &= ~QCOW2_INCOMPATIBLE_DIRTY;
    return mend_flags(image, &repair.counts);
}
