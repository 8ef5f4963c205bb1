/* Pure, either side: walks the L1 tables of the untrusted image to every L2 table ("Cluster mapping").
 *
 * Few requests for much: L2 tables are collected until a batch is full, and short L1 tables of
 * snapshots are read many at a time.
 */
#include "qcow2/walk.h"

#include <string.h>

#include "bits.h"
#include "qcow2/bytes.h"
#include "qcow2/l2.h"
#include "qcow2/qcow2.h"
#include "qcow2/snapshots.h"

#define PART_ENTRIES (TABLE_SIZE / QCOW2_TABLE_ENTRY_SIZE)
#define ENTRY_WORK 128u /* cost of a look at an L1 entry, in bytes read */
#define PROGRESS_STEPS 256u
#define SHORT_ENTRIES 192u /* of an L1 table that is read with others */
#define SHORT_SIZE (SHORT_ENTRIES * QCOW2_TABLE_ENTRY_SIZE)

_Static_assert(SHORT_SIZE % SECTOR_SIZE == 0, "whole sectors are read");
_Static_assert(SHORT_SIZE *IO_RANGES_MAX <= TABLE_SIZE, "all fit the buffer");

static bool flush_batch(struct walk *walk)
{
    uint32_t count = walk->range_count;
    walk->range_count = 0;
    walk->batch_bytes = 0;
    if (!read_ranges(&walk->image->file, walk->phase, walk->ranges, count))
        return false;
    for (uint32_t i = 0; i < count; i++)
        if (!walk->visit(walk, &walk->ranges[i]))
            return false;
    if (!flush_writes(&walk->image->file, &walk->changes))
        return false;
    /* Those of another batch would hardly fit too. */
    bool full = walk->changes.few_count > IO_SECTORS_MAX / 8;
    return (walk->stages_late && !full) || flush_few(&walk->image->file, &walk->changes, true);
}

static uint64_t bit_of(const struct qcow2_image *image, uint64_t table)
{
    return (table >> image->header.cluster_bits) % TABLE_SET_BITS;
}

void add_table(struct table_set *set, const struct qcow2_image *image, uint64_t table)
{
    set_bit(set->bits, bit_of(image, table));
}

/* Where it is kept that an L2 table has been visited; a newer one takes an older one's place. */
static uint64_t *seen_at(struct walk *walk, uint64_t table)
{
    uint64_t number = table >> walk->image->header.cluster_bits;
    return &walk->image->memory->seen[(number ^ number / SEEN_MAX) % SEEN_MAX];
}

static bool is_seen(struct walk *walk, uint64_t table)
{
    return walk->any_seen && *seen_at(walk, table) == table;
}

/* Keep which tables the batch has, as it will be visited while there is more to come. */
static void keep_seen(struct walk *walk)
{
    struct qcow2_image *image = walk->image;
    if (!walk->any_seen)
        memset(image->memory->seen, 0, sizeof(image->memory->seen));
    walk->any_seen = true;
    for (uint32_t i = 0; i < walk->range_count; i++) {
        const struct io_range *range = &walk->ranges[i];
        uint64_t end = range->offset + range->length;
        for (uint64_t table = cluster_of(image, range->offset); table < end;
             table += image->header.cluster_size)
            *seen_at(walk, table) = table;
    }
}

static bool is_in_batch(const struct walk *walk, uint64_t offset)
{
    for (uint32_t i = 0; i < walk->range_count; i++)
        if (offset >= walk->ranges[i].offset &&
            offset - walk->ranges[i].offset < walk->ranges[i].length)
            return true;
    return false;
}

/* Take part of an L2 table into the batch, into the last range if it directly follows that. What is
 * past the image's end names nothing. */
static bool add_to_batch(struct walk *walk, uint64_t offset, uint32_t size)
{
    struct qcow2_image *image = walk->image;
    if (walk->batch_bytes + size > BATCH_SIZE || walk->range_count == IO_RANGES_MAX) {
        keep_seen(walk);
        if (!flush_batch(walk))
            return false;
    }
    struct io_range *last = walk->range_count ? &walk->ranges[walk->range_count - 1] : 0;
    uint8_t *buffer = image->memory->batch + walk->batch_bytes;
    uint64_t present = round_up(image->file.io->size, SECTOR_SIZE) - offset;
    uint64_t length = size < present ? size : present;
    if (last && last->offset + last->length == offset)
        last->length += length;
    else
        walk->ranges[walk->range_count++] = (struct io_range){offset, length, buffer};
    walk->batch_bytes += size;
    return true;
}

/* Look at L1 entry `index` of the table at `table_offset`. */
static bool walk_entry(struct walk *walk, uint64_t table_offset, uint64_t index, uint64_t entry)
{
    struct qcow2_image *image = walk->image;
    uint32_t cluster_size = image->header.cluster_size;
    uint64_t offset = entry & QCOW2_TABLE_OFFSET_MASK;
    if (!spend(&image->file.budget, ENTRY_WORK))
        return false;
    if ((walk->only && !has_bit(walk->only->bits, bit_of(image, offset))) ||
        is_in_batch(walk, offset) || is_seen(walk, offset))
        return true;
    if (!is_cluster(image, offset)) {
        refuse(image->file.verdict, REFUSAL_L2_TABLE, AMEND_ERROR_PARSE_FAILED, table_offset, index,
               offset);
        return false;
    }
    uint32_t part = cluster_size < BATCH_SIZE ? cluster_size : BATCH_SIZE;
    for (uint32_t at = 0; at < cluster_size && offset + at < image->file.io->size; at += part)
        if (!add_to_batch(walk, offset + at, part))
            return false;
    return true;
}

/* Have the active L1 table's entries from `first` on, as many as there are up to a part. */
static bool load_active(struct walk *walk, uint64_t first)
{
    const struct qcow2_header *h = &walk->image->header;
    if (first >= h->l1_size || (walk->active_loaded && walk->active_first == first))
        return true;
    uint64_t count = h->l1_size - first < PART_ENTRIES ? h->l1_size - first : PART_ENTRIES;
    walk->active_first = first;
    walk->active_loaded =
        read_image(&walk->image->file, INSTAR_PHASE_PREPARE,
                   h->l1_table_offset + first * QCOW2_TABLE_ENTRY_SIZE,
                   walk->image->memory->other_table, (uint32_t)count * QCOW2_TABLE_ENTRY_SIZE);
    return walk->active_loaded;
}

/* Look at `count` entries of the L1 table at `table_offset` from `first` on, which `entries` holds;
 * what the active L1 table names at the same place has been visited. */
static bool walk_part(struct walk *walk, uint64_t table_offset, uint64_t first, uint32_t count,
                      const uint8_t *entries)
{
    const struct qcow2_header *h = &walk->image->header;
    const uint8_t *active = walk->image->memory->other_table;
    for (uint32_t i = 0; i < count; i++) {
        uint64_t entry = load_be64(entries + i * QCOW2_TABLE_ENTRY_SIZE);
        if ((entry & QCOW2_TABLE_OFFSET_MASK) == 0)
            continue;
        if (!walk->active && !load_active(walk, first))
            return false;
        bool known = !walk->active && first + i < h->l1_size;
        uint64_t seen = known ? load_be64(active + i * QCOW2_TABLE_ENTRY_SIZE) : 0;
        if ((!known || ((entry ^ seen) & QCOW2_TABLE_OFFSET_MASK)) &&
            !walk_entry(walk, table_offset, first + i, entry))
            return false;
    }
    walk->done += count;
    if (walk->progress_total && walk->done - walk->told >= walk->progress_total / PROGRESS_STEPS) {
        walk->told = walk->done;
        report_progress(&walk->image->file, walk->progress_from + walk->done, walk->progress_total);
    }
    return true;
}

/* Read the L1 tables that wait, and look at them. */
static bool flush_queue(struct walk *walk)
{
    struct io_range reads[IO_RANGES_MAX];
    uint64_t limit = round_up(walk->image->file.io->size, SECTOR_SIZE);
    uint32_t count = 0;
    for (uint32_t i = 0; i < walk->queued; i++) {
        const struct io_range *table = &walk->queue[i];
        uint64_t length = round_up(table->length, SECTOR_SIZE);
        uint64_t present = table->offset < limit ? limit - table->offset : 0;
        memset(table->buffer, 0, SHORT_SIZE);
        if (present)
            reads[count++] = (struct io_range){table->offset, length < present ? length : present,
                                               table->buffer};
    }
    if (!read_ranges(&walk->image->file, INSTAR_PHASE_PREPARE, reads, count))
        return false;
    count = walk->queued;
    walk->queued = 0;
    for (uint32_t i = 0; i < count; i++) {
        const struct io_range *table = &walk->queue[i];
        if (!walk_part(walk, table->offset, 0, (uint32_t)table->length / QCOW2_TABLE_ENTRY_SIZE,
                       table->buffer))
            return false;
    }
    return true;
}

static bool walk_long_table(struct walk *walk, uint64_t table_offset, uint32_t entries)
{
    uint8_t *table = walk->image->memory->table;
    for (uint64_t first = 0; first < entries; first += PART_ENTRIES) {
        uint32_t count =
            entries - first < PART_ENTRIES ? (uint32_t)(entries - first) : PART_ENTRIES;
        if (!read_image(&walk->image->file, INSTAR_PHASE_PREPARE,
                        table_offset + first * QCOW2_TABLE_ENTRY_SIZE, table,
                        count * QCOW2_TABLE_ENTRY_SIZE) ||
            !walk_part(walk, table_offset, first, count, table))
            return false;
    }
    return true;
}

static bool walk_snapshot_table(struct walk *walk, const struct snapshot *snapshot)
{
    if (snapshot->l1_size > SHORT_ENTRIES)
        return walk_long_table(walk, snapshot->l1_table_offset, snapshot->l1_size);
    if (walk->queued == IO_RANGES_MAX && !flush_queue(walk))
        return false;
    walk->queue[walk->queued] = (struct io_range){
        .offset = snapshot->l1_table_offset,
        .length = (uint64_t)snapshot->l1_size * QCOW2_TABLE_ENTRY_SIZE,
        .buffer = walk->image->memory->table + walk->queued * SHORT_SIZE,
    };
    walk->queued++;
    return true;
}

/* Walk the L1 tables of all snapshots; the snapshot table has been checked. */
static bool walk_snapshots(struct walk *walk)
{
    const struct qcow2_header *h = &walk->image->header;
    uint64_t at = 0, last_offset = h->l1_table_offset;
    uint32_t last_size = h->l1_size;
    struct snapshot snapshot;
    for (uint32_t i = 0; i < h->nb_snapshots; i++, at += snapshot.size) {
        if (!read_snapshot(walk->image, at, &snapshot) ||
            !check_l1_table(walk->image, &snapshot, i + 1))
            return false;
        bool same = snapshot.l1_table_offset == last_offset && snapshot.l1_size <= last_size;
        if (snapshot.l1_size == 0 || same)
            continue;
        last_offset = snapshot.l1_table_offset;
        last_size = snapshot.l1_size;
        if (!walk_snapshot_table(walk, &snapshot))
            return false;
    }
    return flush_queue(walk);
}

bool walk_tables(struct walk *walk)
{
    const struct qcow2_header *h = &walk->image->header;
    bool part = walk->active_entries && walk->active_entries < h->l1_size;
    walk->active = true;
    if (!walk_long_table(walk, h->l1_table_offset,
                         part ? (uint32_t)walk->active_entries : h->l1_size) ||
        !flush_batch(walk))
        return false;
    walk->active = false;
    if (walk->snapshots && !(walk_snapshots(walk) && flush_batch(walk)))
        return false;
    return flush_few(&walk->image->file, &walk->changes, false);
}
