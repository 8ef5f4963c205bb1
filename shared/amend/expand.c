/* Pure, either side: finds what version 2 lacks in the L2 tables of the untrusted image ("Standard
 * Cluster Descriptor"), and turns zero clusters into what it has.
 *
 * docs/qcow2.md says what becomes of each kind of zero cluster, and why in this order. All walks may
 * visit a table twice: what has been changed, they see changed.
 */
#include "qcow2/bytes.h"
#include "amend/internal.h"

struct counts {
    uint64_t zero;
    uint64_t allocated; /* of these, with a cluster of their own */
    uint64_t compressed;
};

bool is_zero_cluster(const uint8_t *entry)
{
    /* The two flags lie in the entry's last and first byte. */
    return (entry[7] & QCOW2_L2_ZERO) && !(entry[0] & (QCOW2_L2_COMPRESSED >> 56));
}

static bool count_part(struct walk *walk, const struct io_range *part)
{
    struct counts *counts = walk->context;
    for (const uint8_t *p = part->buffer; p < part->buffer + part->length;
         p += QCOW2_TABLE_ENTRY_SIZE) {
        if (p[0] & (QCOW2_L2_COMPRESSED >> 56)) {
            counts->compressed++;
            if (!is_apart_from_header(walk->planner, p))
                return false;
        } else if (p[7] & QCOW2_L2_ZERO) {
            counts->zero++;
            counts->allocated += (load_be64(p) & QCOW2_TABLE_OFFSET_MASK) != 0;
        }
    }
    return true;
}

static bool has_backing_file(const struct planner *planner)
{
    return planner->header.backing_file_size != 0;
}

bool is_encrypted(const struct planner *planner)
{
    return planner->header.crypt_method != 0;
}

uint64_t scan_for_downgrade(struct planner *planner, uint64_t *allocated)
{
    const struct qcow2_header *h = &planner->header;
    struct counts counts = {0, 0, 0};
    struct walk walk = {
        .planner = planner,
        .phase = INSTAR_PHASE_PREPARE,
        .snapshots = true,
        .progress_total = 2 * planner->l1_entries,
        .visit = count_part,
        .context = &counts,
    };
    planner->header_alone = walk_tables(&walk);
    if (counts.compressed && h->compression_type != QCOW2_COMPRESSION_ZLIB)
        refuse(planner, REFUSAL_DOWNGRADE_COMPRESSED_CLUSTERS, AMEND_ERROR_DOWNGRADE_BLOCKED,
               counts.compressed, h->compression_type, 0);
    /* Zeros would have to be encrypted, and there is no key here. */
    if (counts.zero && is_encrypted(planner) && has_backing_file(planner))
        refuse(planner, REFUSAL_DOWNGRADE_ENCRYPTED_ZEROES, AMEND_ERROR_DOWNGRADE_BLOCKED,
               counts.zero, 0, 0);
    *allocated = counts.allocated;
    return counts.zero;
}

bool add_table_sector(struct planner *planner, struct write_list *list, const struct io_range *part,
                      uint64_t at)
{
    return is_free_of_tables(planner, part->offset + at, QCOW2_SECTOR_SIZE, AMEND_USE_L2_TABLE) &&
           add_write(planner, list, part->offset + at, part->buffer + at, QCOW2_SECTOR_SIZE);
}

bool change_part(struct walk *walk, const struct io_range *part, uint32_t phase,
                 bool (*concerns)(const uint8_t *entry),
                 bool (*change)(struct walk *walk, uint64_t place, uint8_t *entry))
{
    struct write_list list = {.phase = phase};
    for (uint64_t sector = 0; sector < part->length; sector += QCOW2_SECTOR_SIZE) {
        bool changed = false;
        for (uint64_t at = sector; at < sector + QCOW2_SECTOR_SIZE; at += QCOW2_TABLE_ENTRY_SIZE) {
            uint8_t *entry = part->buffer + at;
            if (!concerns(entry))
                continue;
            uint64_t before = load_be64(entry);
            if (!change(walk, part->offset + at, entry))
                return false;
            changed |= load_be64(entry) != before;
        }
        if (changed && !add_table_sector(walk->planner, &list, part, sector))
            return false;
    }
    return flush_writes(walk->planner, &list);
}

/* Turn a zero cluster into an unallocated one where that reads as zeros, else into zeroed data. */
static bool expand_entry(struct walk *walk, uint64_t place, uint8_t *entry)
{
    struct planner *planner = walk->planner;
    uint64_t value = load_be64(entry), cluster = value & QCOW2_TABLE_OFFSET_MASK;
    uint64_t table = table_of(planner, place);
    uint32_t table_users;
    if (cluster) {
        /* It was, unless something has been written over the table since. */
        if (!is_cluster(planner, cluster))
            return refuse_entry(planner, place, value);
        store_be64(entry, value & ~QCOW2_L2_ZERO);
        return is_free_of_tables(planner, cluster, planner->header.cluster_size,
                                 AMEND_USE_ZERO_CLUSTER) &&
               zero_cluster(planner, cluster);
    }
    if (!has_backing_file(planner)) {
        store_be64(entry, 0);
        return true;
    }
    if (!get_table_refcount(planner, table, &table_users))
        return false;
    if (table_users == 0)
        return refuse_refcount(planner, table, 0, 1);
    if (!allocate_clusters(planner, 1, table_users, &cluster) || !zero_cluster(planner, cluster))
        return false;
    store_be64(entry, table_users == 1 ? cluster | QCOW2_L2_COPIED : cluster);
    return true;
}

static bool expand_part(struct walk *walk, const struct io_range *part)
{
    return change_part(walk, part, INSTAR_PHASE_MAPPING, is_zero_cluster, expand_entry);
}

static bool expand_all(struct planner *planner)
{
    struct walk walk = {
        .planner = planner,
        .phase = INSTAR_PHASE_MAPPING + 1,
        .snapshots = true,
        .progress_from = planner->l1_entries,
        .progress_total = 2 * planner->l1_entries,
        .visit = expand_part,
    };
    return walk_tables(&walk) && flush_zeroes(planner);
}

bool expand_zero_clusters(struct planner *planner, uint64_t zero_clusters, uint64_t allocated)
{
    bool flags_needed = false, refcounts_needed = allocated || has_backing_file(planner);
    if (zero_clusters == 0)
        return true;
    if (refcounts_needed &&
        !start_refcounts(planner, has_backing_file(planner) ? zero_clusters : 0))
        return false;
    return (!allocated || detach_zero_clusters(planner, &flags_needed)) && expand_all(planner) &&
           (!flags_needed || set_copied_flags(planner));
}
