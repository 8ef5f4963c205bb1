/* Pure, either side: what the untrusted image has at and past the end of its disk. */
#include "amend/boundary.h"

#include "qcow2/bytes.h"
#include "qcow2/geometry.h"
#include "qcow2/qcow2.h"

#define ENTRY_WORK 16u /* cost of a look at an entry, in bytes read */
#define EXTENDED_ZERO (UINT64_C(0xffffffff) << 32) /* all subclusters read as zeros */
#define EXTENDED_ALLOCATED UINT64_C(0xffffffff)

/* Entry `index` of the L1 table, whose sector may have been read with the header. Null: refused. */
static const uint8_t *look_at_l1(struct qcow2_image *image, struct boundary *b, uint64_t index)
{
    uint64_t place = image->header.l1_table_offset + index * QCOW2_TABLE_ENTRY_SIZE;
    const uint8_t *sector = find_along(image, place - place % SECTOR_SIZE);
    return sector ? sector + place % SECTOR_SIZE
                  : look(&image->file, &b->l1, place, QCOW2_TABLE_ENTRY_SIZE);
}

/* Have the window over the L2 table begin with this entry, and end with the table. */
static void open_l2(const struct qcow2_header *h, struct boundary *b, uint64_t index)
{
    uint64_t start = index * l2_entry_size(h), left = h->cluster_size;
    left -= start - start % SECTOR_SIZE;
    b->l2.size = left < TABLE_SIZE ? (uint32_t)left : TABLE_SIZE;
}

/* The L2 table that maps both sides, and the entry of the cluster that does. */
static bool find_table(struct qcow2_image *image, struct boundary *b)
{
    const struct qcow2_header *h = &image->header;
    uint64_t inside = b->at & (l2_span(h) - 1);
    b->first = round_up(inside, h->cluster_size) >> h->cluster_bits;
    if (inside == 0)
        return true;
    const uint8_t *entry = look_at_l1(image, b, b->l1_kept - 1);
    if (!entry)
        return false;
    b->table = load_be64(entry) & QCOW2_TABLE_OFFSET_MASK;
    if (b->table == 0)
        return true;
    if (!is_cluster(image, b->table))
        return refuse(image->file.verdict, REFUSAL_L2_TABLE, AMEND_ERROR_PARSE_FAILED,
                      h->l1_table_offset, b->l1_kept - 1, b->table);
    bool within = b->at % h->cluster_size != 0;
    open_l2(h, b, b->first - within);
    if (!within)
        return true;
    uint64_t place = b->table + (b->first - 1) * l2_entry_size(h);
    entry = look(&image->file, &b->l2, place, l2_entry_size(h));
    if (!entry)
        return false;
    b->entry = load_be64(entry);
    b->subclusters = has_extended_l2(h) ? load_be64(entry + QCOW2_TABLE_ENTRY_SIZE) : 0;
    return true;
}

bool find_boundary(struct qcow2_image *image, uint64_t at, uint64_t end, uint64_t fill_end,
                   struct boundary *boundary)
{
    struct qcow2_memory *memory = image->memory;
    uint64_t l1 = l1_entries_for(&image->header, end) * QCOW2_TABLE_ENTRY_SIZE;
    *boundary = (struct boundary){
        .at = at,
        .fill_end = fill_end,
        .l1_kept = l1_entries_for(&image->header, at),
        .l1 = {memory->table, l1 < TABLE_SIZE ? (uint32_t)round_up(l1, SECTOR_SIZE) : TABLE_SIZE,
               INSTAR_PHASE_PREPARE, 0, .loaded = false},
        .l2 = {memory->other_table, TABLE_SIZE, INSTAR_PHASE_PREPARE, 0, .loaded = false},
    };
    return find_table(image, boundary);
}

bool has_l1_entries(struct qcow2_image *image, struct boundary *b, uint64_t first, uint64_t end,
                    bool *any)
{
    *any = false;
    if (first < end && !spend(&image->file.budget, (end - first) * ENTRY_WORK))
        return false;
    for (uint64_t i = first; i < end && !*any; i++) {
        const uint8_t *entry = look_at_l1(image, b, i);
        if (!entry)
            return false;
        *any = load_be64(entry) != 0;
    }
    return true;
}

static bool is_filled(const struct qcow2_image *image, const struct boundary *b, uint64_t index)
{
    return (b->l1_kept - 1) * l2_entries(&image->header) + index < b->fill_end;
}

void store_wanted(const struct qcow2_image *image, const struct boundary *b, uint64_t index,
                  uint8_t *entry)
{
    bool filled = is_filled(image, b, index), extended = has_extended_l2(&image->header);
    store_be64(entry, filled && !extended ? QCOW2_L2_ZERO : 0);
    if (extended)
        store_be64(entry + QCOW2_TABLE_ENTRY_SIZE, filled ? EXTENDED_ZERO : 0);
}

/* Zeros that own no cluster are as good as nothing; the other way round not over a backing file. */
static bool is_wanted(const struct qcow2_image *image, const struct boundary *b, uint64_t index,
                      const uint8_t *entry)
{
    uint64_t value = load_be64(entry);
    bool filled = is_filled(image, b, index);
    if (has_extended_l2(&image->header)) {
        uint64_t subclusters = load_be64(entry + QCOW2_TABLE_ENTRY_SIZE);
        return value == 0 && (subclusters == EXTENDED_ZERO ||
                              (!filled && !(subclusters & EXTENDED_ALLOCATED)));
    }
    return value == (filled ? QCOW2_L2_ZERO : 0) ||
           (value == QCOW2_L2_ZERO && image->header.version >= 3);
}

/* Whether one of `count` entries is not as it should be. Most tables have nothing there at all. */
static bool any_unwanted(const struct qcow2_image *image, const struct boundary *b, uint64_t index,
                         uint64_t count, const uint8_t *entries)
{
    uint32_t size = l2_entry_size(&image->header);
    if (!is_filled(image, b, index) && is_zero(entries, count * size))
        return false;
    for (uint64_t i = 0; i < count; i++)
        if (!is_wanted(image, b, index + i, entries + i * size))
            return true;
    return false;
}

bool has_remains(struct qcow2_image *image, struct boundary *b, bool *any)
{
    const struct qcow2_header *h = &image->header;
    uint32_t size = l2_entry_size(h);
    *any = false;
    if (b->first == 0 || !spend(&image->file.budget, l2_entries(h) * ENTRY_WORK))
        return b->first == 0;
    if (b->table == 0) {
        *any = b->first < l2_entries(h) && is_filled(image, b, b->first);
        return true;
    }
    for (uint64_t i = b->first, count; i < l2_entries(h) && !*any; i += count) {
        uint64_t place = b->table + i * size;
        const uint8_t *entries = look(&image->file, &b->l2, place, size);
        if (!entries)
            return false;
        count = (b->l2.offset + b->l2.size - place) / size;
        if (count > l2_entries(h) - i)
            count = l2_entries(h) - i;
        *any = any_unwanted(image, b, i, count, entries);
    }
    return true;
}
