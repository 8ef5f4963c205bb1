/* Pure, either side: finds what the untrusted image's active layer has at the end of its disk, and behind. */
#include "amend/boundary.h"

#include "qcow2/bytes.h"
#include "qcow2/geometry.h"
#include "qcow2/qcow2.h"

#define ENTRY_WORK 16u /* to look at an entry takes as long as to read so many bytes */
#define EXTENDED_ZERO (UINT64_C(0xffffffff) << 32) /* all subclusters read as zeros */
#define EXTENDED_ALLOCATED UINT64_C(0xffffffff)

/* The L2 table that maps both sides, and the entry of the cluster that does. */
static bool find_table(struct qcow2_image *image, struct boundary *b)
{
    const struct qcow2_header *h = &image->header;
    uint64_t inside = b->at & (l2_span(h) - 1);
    b->first = round_up(inside, h->cluster_size) >> h->cluster_bits;
    if (inside == 0)
        return true;
    uint64_t place = h->l1_table_offset + (b->l1_kept - 1) * QCOW2_TABLE_ENTRY_SIZE;
    const uint8_t *entry = look(&image->file, &b->l1, place, QCOW2_TABLE_ENTRY_SIZE);
    if (!entry)
        return false;
    b->table = load_be64(entry) & QCOW2_TABLE_OFFSET_MASK;
    if (b->table == 0)
        return true;
    if (!is_cluster(image, b->table))
        return refuse(image->file.verdict, REFUSAL_L2_TABLE, AMEND_ERROR_PARSE_FAILED,
                      h->l1_table_offset, b->l1_kept - 1, b->table);
    if (b->at % h->cluster_size == 0)
        return true;
    place = b->table + (b->first - 1) * l2_entry_size(h);
    entry = look(&image->file, &b->l2, place, l2_entry_size(h));
    if (!entry)
        return false;
    b->entry = load_be64(entry);
    b->subclusters = has_extended_l2(h) ? load_be64(entry + QCOW2_TABLE_ENTRY_SIZE) : 0;
    return true;
}

bool find_boundary(struct qcow2_image *image, uint64_t at, uint64_t fill_end,
                   struct boundary *boundary)
{
    struct qcow2_memory *memory = image->memory;
    *boundary = (struct boundary){
        .at = at,
        .fill_end = fill_end,
        .l1_kept = l1_entries_for(&image->header, at),
        .l1 = {memory->table, TABLE_SIZE, INSTAR_PHASE_PREPARE, 0, .loaded = false},
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
        uint64_t place = image->header.l1_table_offset + i * QCOW2_TABLE_ENTRY_SIZE;
        const uint8_t *entry = look(&image->file, &b->l1, place, QCOW2_TABLE_ENTRY_SIZE);
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

bool has_remains(struct qcow2_image *image, struct boundary *b, bool *any)
{
    const struct qcow2_header *h = &image->header;
    uint32_t size = l2_entry_size(h);
    *any = false;
    if (b->first == 0 || !spend(&image->file.budget, l2_entries(h) * ENTRY_WORK))
        return b->first == 0;
    for (uint64_t i = b->first; i < l2_entries(h) && !*any; i++) {
        if (b->table == 0) {
            *any = is_filled(image, b, i);
            return true;
        }
        const uint8_t *entry = look(&image->file, &b->l2, b->table + i * size, size);
        if (!entry)
            return false;
        *any = !is_wanted(image, b, i, entry);
    }
    return true;
}
