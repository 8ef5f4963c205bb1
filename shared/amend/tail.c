/* Pure, either side: sees to the untrusted image's last cluster where the disk ends within it. */
#include "amend/tail.h"

#include <string.h>

#include "amend/fresh.h"
#include "image/writes.h"
#include "qcow2/bytes.h"
#include "qcow2/geometry.h"
#include "qcow2/qcow2.h"

/* What is unallocated shows the backing file: its head would have to be copied from there. */
static bool refuse_head(struct qcow2_image *image, uint64_t at)
{
    return refuse(image->file.verdict, REFUSAL_GROW_HEAD_OVER_BACKING, AMEND_ERROR_SIZE, at,
                  image->header.cluster_size, 0);
}

/* Find out where in a standard cluster something may hide. */
static bool find_hidden(struct qcow2_image *image, uint64_t at, bool backed, struct tail *tail)
{
    bool zero = image->header.version >= 3 && tail->entry & QCOW2_L2_ZERO;
    if (!zero && (tail->entry & QCOW2_TABLE_OFFSET_MASK) == 0)
        return !backed || refuse_head(image, at);
    tail->end = zero ? tail->start : image->header.cluster_size;
    return true;
}

/* The same in an extended entry's subclusters: those that are wholly past the end become zeros or
 * nothing. */
static bool find_hidden_subclusters(struct qcow2_image *image, uint64_t at, bool backed,
                                    struct tail *tail)
{
    uint64_t size = image->header.cluster_size / SUBCLUSTERS;
    uint64_t number = tail->start / size, after = (tail->start + size - 1) / size;
    uint64_t beyond = (UINT64_C(1) << SUBCLUSTERS) - (UINT64_C(1) << after);
    uint64_t zeros = tail->subclusters >> SUBCLUSTERS, mine = UINT64_C(1) << number;
    if (number != after && tail->subclusters & mine)
        tail->end = after * size;
    else if (number != after && !(zeros & mine) && backed)
        return refuse_head(image, at);
    if ((tail->subclusters & beyond) || (backed && (zeros & beyond) != beyond)) {
        tail->subclusters = (tail->subclusters & ~beyond) | beyond << SUBCLUSTERS;
        tail->changed = true;
    }
    return true;
}

/* Whether the bytes that hide are zeros; else the cluster is noted. */
static bool search_bytes(struct books *books, struct tail *tail)
{
    struct qcow2_image *image = books->image;
    uint64_t cluster = tail->entry & QCOW2_TABLE_OFFSET_MASK, users;
    uint8_t *buffer = image->memory->batch;
    uint64_t from = tail->start & ~(uint64_t)(SECTOR_SIZE - 1);
    uint8_t any = 0;
    if (!is_cluster(image, cluster))
        return refuse(image->file.verdict, REFUSAL_L2_ENTRY, AMEND_ERROR_PARSE_FAILED, 0, 0,
                      tail->entry);
    for (uint64_t at = from; at < tail->end && !any; at += BATCH_SIZE) {
        uint32_t part = tail->end - at < BATCH_SIZE ? (uint32_t)(tail->end - at) : BATCH_SIZE;
        if (!read_image(&image->file, INSTAR_PHASE_PREPARE, cluster + at, buffer, part))
            return false;
        for (uint64_t i = at < tail->start ? tail->start - at : 0; i < part; i++)
            any |= buffer[i];
    }
    if (!any)
        return true;
    tail->cluster = cluster;
    if (!expect_clusters(books, 0) || !get_refcount(&books->counts, cluster, &users))
        return false;
    tail->shared = users != 1 || !(tail->entry & QCOW2_L2_COPIED);
    tail->changed |= tail->shared;
    return true;
}

bool find_tail(struct books *books, struct boundary *boundary, bool backed, struct tail *tail)
{
    struct qcow2_image *image = books->image;
    const struct qcow2_header *h = &image->header;
    uint64_t start = boundary->at % h->cluster_size;
    *tail = (struct tail){
        .start = start,
        .end = start,
        .entry = boundary->entry,
        .subclusters = boundary->subclusters,
    };
    /* A compressed cluster is whole, and an encrypted one cannot be looked into. */
    if (start == 0 || tail->entry & QCOW2_L2_COMPRESSED)
        return true;
    if (!(has_extended_l2(h) ? find_hidden_subclusters(image, boundary->at, backed, tail)
                             : find_hidden(image, boundary->at, backed, tail)))
        return false;
    return tail->end == start || is_encrypted(image) || search_bytes(books, tail);
}

bool stage_tail(struct qcow2_image *image, const struct tail *tail, uint64_t copy)
{
    uint8_t *buffer = image->memory->batch;
    uint64_t size = image->header.cluster_size;
    uint64_t present = round_up(image->file.io->size, SECTOR_SIZE) - tail->cluster;
    if (!copy && present < size)
        size = present; /* a last cluster may be short */
    for (uint64_t at = 0; at < size; at += BATCH_SIZE) {
        uint32_t part = size - at < BATCH_SIZE ? (uint32_t)(size - at) : BATCH_SIZE;
        uint64_t start = tail->start > at ? tail->start - at : 0;
        uint64_t end = tail->end > at ? tail->end - at : 0;
        if (end > part)
            end = part;
        if (!copy && start >= end)
            continue;
        if (!read_image(&image->file, INSTAR_PHASE_PREPARE, tail->cluster + at, buffer, part))
            return false;
        if (start < end)
            memset(buffer + start, 0, end - start);
        if (copy && !write_fresh(&image->file, copy + at, buffer, part, at + part == size))
            return false;
        uint64_t first = start & ~(uint64_t)(SECTOR_SIZE - 1);
        if (!copy && !write_image(&image->file, INSTAR_PHASE_PREPARE, tail->cluster + at + first,
                                  buffer + first, (uint32_t)(end - first)))
            return false;
    }
    return true;
}
