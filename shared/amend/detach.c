/* Pure, either side: zero clusters of the untrusted image give up host clusters that they share, so
 * that each other user's data stay.
 */
#include "amend/detach.h"

#include <string.h>

#include "amend/change.h"
#include "bits.h"
#include "qcow2/bytes.h"
#include "qcow2/l2.h"
#include "qcow2/qcow2.h"
#include "qcow2/walk.h"

/* If one read served this many more entries, the next search looks at all that follow. */
#define WORTH_A_SEARCH 16u
/* Cost of a look at one, in bytes read. */
#define SEARCH_WORK 16u

/* What a visit works with; the agenda is about the part of an L2 table that is being visited. */
struct detachment {
    struct books *books;
    struct agenda_memory *agenda;
};

/* A zero cluster that shares its host cluster with another table gives it up: that table's data must
 * stay. The same where zeros would have to be encrypted. */
static bool detach_entry(struct walk *walk, uint64_t table_users, uint8_t *entry)
{
    struct detachment *detachment = walk->context;
    struct books *books = detachment->books;
    uint64_t cluster = load_be64(entry) & QCOW2_TABLE_OFFSET_MASK, users, left;
    if (!get_refcount(&books->counts, cluster, &users))
        return false;
    if (table_users == 0 || users < table_users)
        return refuse_refcount(walk->image, cluster, users, table_users);
    if (users == table_users && !is_encrypted(walk->image)) {
        if (books->any_released && !get_final_refcount(books, cluster, &left))
            return false;
        return !books->any_released || left == users ||
               refuse_refcount(walk->image, cluster, left, table_users);
    }
    if (!release_cluster(books, cluster, table_users, AMEND_USE_ZERO_CLUSTER))
        return false;
    store_be64(entry, QCOW2_L2_ZERO);
    return true;
}

/* Which table the entry at this place of the image is in, of those that the part has pieces of. */
static uint64_t table_number(const struct walk *walk, const struct io_range *part, uint64_t place)
{
    uint32_t bits = walk->image->header.cluster_bits;
    return (place >> bits) - (part->offset >> bits);
}

/* Note the entries, and look up their tables' refcounts in the order in which the tables lie. */
static bool note_pending(struct walk *walk, const struct io_range *part)
{
    struct detachment *detachment = walk->context;
    struct agenda_memory *agenda = detachment->agenda;
    uint64_t count = part->length / QCOW2_TABLE_ENTRY_SIZE;
    memset(agenda->pending, 0, (count + 63) / 64 * sizeof(*agenda->pending));
    memset(agenda->changed, 0, sizeof(agenda->changed));
    for (uint64_t n = 0; n < count; n++) {
        const uint8_t *entry = part->buffer + n * QCOW2_TABLE_ENTRY_SIZE;
        uint64_t value = load_be64(entry), cluster = value & QCOW2_TABLE_OFFSET_MASK;
        uint64_t place = part->offset + n * QCOW2_TABLE_ENTRY_SIZE;
        uint64_t users;
        if (n % QCOW2_SECTOR_ENTRIES == 0 && !has_flagged(entry)) {
            n += QCOW2_SECTOR_ENTRIES - 1;
            continue;
        }
        if (!is_zero_cluster(entry) || cluster == 0)
            continue;
        if (!is_cluster(walk->image, cluster))
            return refuse_entry(walk->image, place, value);
        if (!get_table_refcount(&detachment->books->counts, cluster_of(walk->image, place), &users))
            return false;
        agenda->refcounts[table_number(walk, part, place)] = users;
        set_bit(agenda->pending, n);
    }
    return true;
}

static bool detach_noted(struct walk *walk, const struct io_range *part, uint64_t n)
{
    struct detachment *detachment = walk->context;
    struct agenda_memory *agenda = detachment->agenda;
    uint8_t *entry = part->buffer + n * QCOW2_TABLE_ENTRY_SIZE;
    uint64_t before = load_be64(entry), place = part->offset + n * QCOW2_TABLE_ENTRY_SIZE;
    if (!detach_entry(walk, agenda->refcounts[table_number(walk, part, place)], entry))
        return false;
    if (load_be64(entry) != before)
        set_bit(agenda->changed, n * QCOW2_TABLE_ENTRY_SIZE / SECTOR_SIZE);
    return true;
}

/* Detach with each entry those after it whose refcounts are at hand by then: host clusters may lie
 * in any order, and refcounts are read many at a time. Where few are found, the search gets
 * shorter. */
static bool detach_pending(struct walk *walk, const struct io_range *part)
{
    struct detachment *detachment = walk->context;
    struct agenda_memory *agenda = detachment->agenda;
    uint64_t count = part->length / QCOW2_TABLE_ENTRY_SIZE, reach = count;
    for (uint64_t n = 0; n < count; n++) {
        uint64_t found = 0;
        if (!take_bit(agenda->pending, n))
            continue;
        if (!detach_noted(walk, part, n))
            return false;
        uint64_t end = count - n < reach ? count : n + reach;
        if (!spend(&walk->image->file.budget, (end - n) * SEARCH_WORK))
            return false;
        for (uint64_t i = n + 1; i < end; i++) {
            uint64_t value = load_be64(part->buffer + i * QCOW2_TABLE_ENTRY_SIZE);
            if (!has_bit(agenda->pending, i) ||
                !has_refcount(&detachment->books->counts, value & QCOW2_TABLE_OFFSET_MASK))
                continue;
            (void)take_bit(agenda->pending, i);
            found++;
            if (!detach_noted(walk, part, i))
                return false;
        }
        reach = found >= WORTH_A_SEARCH ? count : reach / 2 + WORTH_A_SEARCH;
    }
    return true;
}

static bool detach_part(struct walk *walk, const struct io_range *part)
{
    struct detachment *detachment = walk->context;
    if (!note_pending(walk, part) || !detach_pending(walk, part))
        return false;
    for (uint64_t at = 0; at < part->length; at += SECTOR_SIZE)
        if (take_bit(detachment->agenda->changed, at / SECTOR_SIZE) &&
            !add_table_sector(walk, part, at))
            return false;
    return true;
}

bool detach_zero_clusters(struct books *books, struct agenda_memory *agenda,
                          const struct table_set *tables, struct io_sectors *few)
{
    struct detachment detachment = {.books = books, .agenda = agenda};
    struct walk walk = {
        .image = books->image,
        .phase = INSTAR_PHASE_MAPPING + 1,
        .changes.phase = INSTAR_PHASE_MAPPING,
        .changes.few = few,
        .fills_gaps = true,
        .only = tables,
        .snapshots = true,
        .visit = detach_part,
        .context = &detachment,
    };
    return walk_tables(&walk);
}
