/* Pure, either side: stages the active layer of the untrusted image for a disk of another size.
 *
 * What both sizes have stays; what the tables have beyond that is dropped, whether the disk becomes
 * smaller or larger, so that it never shows again. docs/qcow2.md says in which order.
 */
#include "amend/resize.h"

#include <string.h>

#include "amend/allocate.h"
#include "amend/drop.h"
#include "amend/fresh.h"
#include "qcow2/bytes.h"
#include "qcow2/geometry.h"
#include "qcow2/qcow2.h"

#define ENTRIES_AT_ONCE (BATCH_SIZE / QCOW2_TABLE_ENTRY_SIZE)

static bool grows(const struct resize *r)
{
    return r->target->size > r->books->image->header.size;
}

static uint64_t clusters_for(const struct qcow2_header *h, uint64_t bytes)
{
    return round_up(bytes, h->cluster_size) >> h->cluster_bits;
}

/* The number of the disk's cluster before which the backing file has something past the old end. */
static uint64_t fill_end(const struct resize *r, uint64_t backing_size)
{
    const struct qcow2_header *h = &r->books->image->header;
    uint64_t end = r->target->size < backing_size ? r->target->size : backing_size;
    bool fills = grows(r) && has_backing_file(r->books->image) && backing_size > disk_size(h);
    return fills ? clusters_for(h, end) : 0;
}

/* Whether the table that maps both sides has to be another one. */
static bool find_cut(struct resize *r)
{
    struct books *books = r->books;
    bool remains;
    if (grows(r) && !find_tail(books, &r->boundary, r->boundary.fill_end, &r->tail))
        return false;
    if (!has_remains(books->image, &r->boundary, &remains))
        return false;
    r->cut = remains || r->tail.changed;
    return true;
}

/* Whether the L1 table has to be another one, or will do with more or fewer entries. */
static bool find_move(struct resize *r)
{
    struct qcow2_image *image = r->books->image;
    const struct qcow2_header *h = &image->header;
    uint64_t room = clusters_for(h, (uint64_t)h->l1_size * QCOW2_TABLE_ENTRY_SIZE)
                    << h->cluster_bits;
    uint64_t longer = larger(r->l1_size, h->l1_size);
    r->moves_l1 = r->cut || r->filled || r->l1_size > room / QCOW2_TABLE_ENTRY_SIZE;
    if (r->moves_l1 || !grows(r))
        return true;
    if (!has_l1_entries(image, &r->boundary, r->boundary.l1_kept, longer, &r->moves_l1))
        return false;
    if (!r->moves_l1)
        r->l1_size = longer;
    return true;
}

/* Lay what stays of the table that gives way, and what is to follow it, over a part of a new one. */
static bool make_part(struct resize *r, uint64_t at, uint8_t *part, uint32_t length)
{
    struct qcow2_image *image = r->books->image;
    const struct boundary *b = &r->boundary;
    uint32_t size = l2_entry_size(&image->header);
    memset(part, 0, length);
    if (b->table && at < b->first * size &&
        !read_image(&image->file, INSTAR_PHASE_PREPARE, b->table + at, part, length))
        return false;
    for (uint64_t i = at / size; i < (at + length) / size; i++) {
        uint8_t *entry = part + (i * size - at);
        if (i >= b->first) {
            store_wanted(image, b, i, entry);
        } else if (i + 1 == b->first && r->tail.changed) {
            store_be64(entry, r->tail.entry);
            if (size > QCOW2_TABLE_ENTRY_SIZE)
                store_be64(entry + QCOW2_TABLE_ENTRY_SIZE, r->tail.subclusters);
        }
    }
    return true;
}

/* Go through the new table, and stage it if it has a place; *any is whether it has any entry. */
static bool make_table(struct resize *r, bool *any)
{
    struct qcow2_image *image = r->books->image;
    uint64_t size = image->header.cluster_size;
    uint8_t *part = image->memory->batch;
    *any = false;
    for (uint64_t at = 0; at < size; at += BATCH_SIZE) {
        uint32_t length = size - at < BATCH_SIZE ? (uint32_t)(size - at) : BATCH_SIZE;
        if (!make_part(r, at, part, length))
            return false;
        for (uint32_t i = 0; i < length; i += QCOW2_TABLE_ENTRY_SIZE)
            *any |= load_be64(part + i) != 0;
        if (r->table &&
            !write_fresh(&image->file, r->table + at, part, length, at + length == size))
            return false;
    }
    return true;
}

/* Stage the L2 tables of zeros. */
static bool fill_tables(struct resize *r)
{
    struct qcow2_image *image = r->books->image;
    const struct qcow2_header *h = &image->header;
    uint32_t size = l2_entry_size(h);
    uint64_t bytes = r->filled << h->cluster_bits;
    struct boundary beyond = r->boundary;
    beyond.l1_kept++; /* these tables are those of the entries after it */
    for (uint64_t at = 0; at < bytes; at += BATCH_SIZE) {
        uint32_t length = bytes - at < BATCH_SIZE ? (uint32_t)(bytes - at) : BATCH_SIZE;
        for (uint32_t i = 0; i < length; i += size)
            store_wanted(image, &beyond, (at + i) / size, image->memory->batch + i);
        if (!write_fresh(&image->file, r->fill + at, image->memory->batch, length,
                         at + length == bytes))
            return false;
    }
    return true;
}

/* Stage the new L1 table: what is kept of the old one, and what has been made. */
static bool write_l1(struct resize *r, uint64_t offset)
{
    struct qcow2_image *image = r->books->image;
    const struct qcow2_header *h = &image->header;
    uint64_t kept = r->boundary.l1_kept, cut = r->cut ? kept - 1 : UINT64_MAX;
    uint64_t size = clusters_for(h, r->l1_size * QCOW2_TABLE_ENTRY_SIZE) << h->cluster_bits;
    uint64_t entries = size / QCOW2_TABLE_ENTRY_SIZE;
    uint64_t used = round_up(kept + r->filled, QCOW2_SECTOR_ENTRIES); /* zeros follow */
    uint8_t *part = image->memory->batch;
    used = used < entries ? used : entries;
    for (uint64_t first = 0, end; first < used; first = end) {
        end = used - first < ENTRIES_AT_ONCE ? used : first + ENTRIES_AT_ONCE;
        uint64_t old_end = first > kept ? first : end < kept ? end : kept;
        uint32_t length = (uint32_t)(end - first) * QCOW2_TABLE_ENTRY_SIZE;
        uint32_t old_length = (uint32_t)(old_end - first) * QCOW2_TABLE_ENTRY_SIZE;
        uint64_t place = first * QCOW2_TABLE_ENTRY_SIZE;
        if (old_length && !read_image(&image->file, INSTAR_PHASE_PREPARE,
                                      h->l1_table_offset + place, part, old_length))
            return false;
        memset(part + old_length, 0, length - old_length);
        if (cut >= first && cut < end)
            store_be64(part + (cut - first) * QCOW2_TABLE_ENTRY_SIZE,
                       r->table ? r->table | QCOW2_L2_COPIED : 0);
        for (uint64_t i = old_end; i < end && i - kept < r->filled; i++)
            store_be64(part + (i - first) * QCOW2_TABLE_ENTRY_SIZE,
                       (r->fill + ((i - kept) << h->cluster_bits)) | QCOW2_L2_COPIED);
        if (!write_fresh(&image->file, offset + place, part, length, end == entries))
            return false;
    }
    return fill_fresh(&image->file, offset + used * QCOW2_TABLE_ENTRY_SIZE, offset + size, part,
                      TABLE_SIZE);
}

/* Take what is new after the image's end, where no wrong refcount hides anything; a device has none. */
static bool take_new(struct resize *r, uint64_t *l1_table, uint64_t *copy)
{
    struct books *books = r->books;
    struct qcow2_image *image = books->image;
    uint64_t l1 = clusters_for(&image->header, r->l1_size * QCOW2_TABLE_ENTRY_SIZE);
    bool any = false;
    if (r->cut && !make_table(r, &any))
        return false;
    bool copies = r->tail.cluster && r->tail.shared;
    if (!expect_clusters(books, l1 + r->filled + any + copies))
        return false;
    if (!image->file.fixed_size)
        books->next = clusters_for(&image->header, image->file.io->size);
    return (!copies || allocate_clusters(books, 1, 1, copy)) &&
           (!any || allocate_clusters(books, 1, 1, &r->table)) &&
           (!r->filled || allocate_clusters(books, r->filled, 1, &r->fill)) &&
           allocate_clusters(books, l1, 1, l1_table);
}

/* Stage new tables, which nothing refers to until the switch. */
static bool make_new(struct resize *r, uint64_t *l1_table)
{
    uint64_t copy = 0;
    bool any;
    if (!take_new(r, l1_table, &copy))
        return false;
    if (copy) {
        if (!stage_tail(r->books->image, &r->tail, copy))
            return false;
        r->tail.entry = copy | QCOW2_L2_COPIED;
    }
    return (!r->table || make_table(r, &any)) && (!r->filled || fill_tables(r)) &&
           write_l1(r, *l1_table);
}

/* Give up what is dropped, once nothing refers to it any more. */
static bool release_old(struct resize *r)
{
    struct books *books = r->books;
    const struct qcow2_header *h = &books->image->header;
    const struct boundary *b = &r->boundary;
    uint64_t l1 = clusters_for(h, (uint64_t)h->l1_size * QCOW2_TABLE_ENTRY_SIZE);
    uint64_t kept = r->moves_l1 ? 0 : clusters_for(h, r->l1_size * QCOW2_TABLE_ENTRY_SIZE);
    bool any;
    if (!r->moves_l1 && grows(r))
        return true; /* find_move() has seen that nothing hides */
    if (r->moves_l1)
        r->boundary.l1.loaded = false; /* its memory has been used */
    if (!has_l1_entries(books->image, &r->boundary, b->l1_kept, h->l1_size, &any))
        return false;
    if (!any && kept >= l1)
        return true;
    if (!expect_clusters(books, 0))
        return false;
    if (r->tail.cluster && r->tail.shared &&
        !release_cluster(books, r->tail.cluster, 1, AMEND_USE_DATA))
        return false;
    if (r->cut && b->table &&
        (!drop_entries(books, b->table, b->first) ||
         !release_cluster(books, b->table, 1, AMEND_USE_L2_TABLE)))
        return false;
    return drop_tables(books, b->l1_kept, h->l1_size) &&
           (kept >= l1 ||
            release_clusters(books, h->l1_table_offset + (kept << h->cluster_bits),
                             (l1 - kept) << h->cluster_bits, AMEND_USE_L1_TABLE));
}

/* Find out what both sizes have, and what hides beyond that. */
static bool start_resize(struct books *books, struct target *target, uint64_t backing_size,
                         struct resize *r)
{
    const struct qcow2_header *h = &books->image->header;
    *r = (struct resize){.books = books, .target = target};
    uint64_t at = grows(r) ? disk_size(h) : target->size;
    uint64_t end = grows(r) ? target->size : h->size;
    return find_boundary(books->image, at, end, fill_end(r, backing_size), &r->boundary) &&
           find_cut(r);
}

void check_boundary(struct books *books, struct target *target, uint64_t backing_size)
{
    struct resize r;
    (void)start_resize(books, target, backing_size, &r);
}

bool resize_layer(struct books *books, struct target *target, uint64_t backing_size,
                  struct resize *r)
{
    struct qcow2_image *image = books->image;
    const struct qcow2_header *h = &image->header;
    uint64_t l1_table = h->l1_table_offset;
    if (!start_resize(books, target, backing_size, r))
        return false;
    uint64_t filled = r->boundary.fill_end;
    uint64_t tables = (filled + l2_entries(h) - 1) / l2_entries(h);
    r->filled = tables > r->boundary.l1_kept ? tables - r->boundary.l1_kept : 0;
    r->l1_size = l1_entries_for(h, target->size);
    if (!find_move(r) || (r->moves_l1 && !make_new(r, &l1_table)))
        return false;
    if (r->tail.cluster && !r->tail.shared && !stage_tail(image, &r->tail, 0))
        return false;
    target->l1_size = (uint32_t)r->l1_size;
    target->l1_table_offset = l1_table;
    return release_old(r);
}
