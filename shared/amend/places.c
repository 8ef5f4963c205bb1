/* Pure, either side: finds room beside the old refcount structures of the untrusted image.
 *
 * In a file the new ones lie after its end, where nothing is that wrong refcounts could hide: first the
 * table, then the blocks. On a block device they take free clusters, and only the table is in a row.
 * The new blocks count themselves and the table, which may take more blocks and a larger table: find_places()
 * goes on until nothing is missing.
 */
#include "amend/places.h"

#include <string.h>

#include "bits.h"
#include "qcow2/overlap.h"
#include "qcow2/qcow2.h"

#define RUN_MAX 0x10000u /* clusters that are looked at in a row */
#define OFFSET_MAX (UINT64_C(1) << 55) /* twice that is more than any table can name */

_Static_assert(PLACES_BLOCKS_MAX == QCOW2_REFCOUNT_TABLE_SIZE_MAX / QCOW2_TABLE_ENTRY_SIZE,
               "a bit for each entry");

static bool is_device(const struct places *places)
{
    return places->image->file.fixed_size;
}

/* Look further for free clusters. False: refused, there are none, or an I/O error. */
static bool find_run(struct places *places)
{
    struct image *file = &places->image->file;
    uint32_t bits = places->image->header.cluster_bits;
    struct run *last = places->run_count ? &places->runs[places->run_count - 1] : 0;
    struct run run = {0, 0};
    while (run.count < RUN_MAX && may_extend_to(file, (places->scanned + 1) << bits)) {
        bool is_free;
        if (!places->tell_free(places->context, places->scanned, &is_free))
            return false;
        if (!is_free && run.count)
            break;
        if (is_free && run.count++ == 0)
            run.first = places->scanned;
        places->scanned++;
    }
    if (last && run.count && run.first == last->first + last->count) {
        last->count += run.count;
        return true;
    }
    if (run.count == 0 || places->run_count == PLACES_RUNS_MAX)
        return refuse(file->verdict, REFUSAL_DEVICE_FULL, AMEND_ERROR_WRITE_FAILED,
                      file->growth_needed, file->io->size, 0);
    places->runs[places->run_count++] = run;
    return true;
}

/* Have the table lie in the first run that is long enough. False: refused. */
static bool place_table(struct places *places)
{
    for (uint32_t i = 0;;) {
        if (i < places->run_count && places->runs[i].count >= places->table_size) {
            places->table = places->runs[i].first;
            return true;
        }
        if (i + 1 < places->run_count)
            i++;
        else if (!find_run(places))
            return false;
    }
}

bool next_place(const struct places *places, struct places_cursor *cursor, uint64_t *place)
{
    while (cursor->run < places->run_count) {
        const struct run *run = &places->runs[cursor->run];
        if (cursor->at == 0 && run->first == places->table)
            cursor->at = places->table_size;
        if (cursor->at < run->count) {
            *place = run->first + cursor->at++;
            return true;
        }
        if (cursor->run + 1 == places->run_count)
            return false; /* the last run may become longer yet */
        cursor->run++;
        cursor->at = 0;
    }
    return false;
}

/* Note that a block is needed; returns by how many there are more. */
static uint64_t need(uint64_t *needed, uint64_t index, uint64_t *last)
{
    uint64_t more = index < PLACES_BLOCKS_MAX && !has_bit(needed, index);
    if (more)
        set_bit(needed, index);
    *last = index > *last ? index : *last;
    return more;
}

/* Lay all out with a table of this size, `blocks` being counted, the last of which is *last. Sets *last to
 * the last one that is needed. False: refused. */
static bool lay_out(struct places *places, uint64_t *needed, uint64_t blocks, uint32_t block_bits,
                    uint64_t *last)
{
    struct places_cursor cursor = {0, 0};
    if (!place_table(places))
        return false;
    for (uint64_t i = 0; i < places->table_size; i++)
        blocks += need(needed, (places->table + i) >> block_bits, last);
    for (places->blocks = 0; places->blocks < blocks && *last < PLACES_BLOCKS_MAX;
         places->blocks++) {
        uint64_t place;
        while (!next_place(places, &cursor, &place))
            if (!find_run(places))
                return false;
        blocks += need(needed, place >> block_bits, last);
    }
    return true;
}

/* Count the blocks of a set; *last is the last one. */
static uint64_t count_blocks(const uint64_t *blocks, uint64_t *last)
{
    uint64_t count = 0;
    *last = 0;
    for (uint64_t index = 0; index < PLACES_BLOCKS_MAX; index++) {
        if (index % 64 == 0 && blocks[index / 64] == 0) {
            index += 63;
        } else if (has_bit(blocks, index)) {
            count++;
            *last = index;
        }
    }
    return count;
}

/* See that nothing else lies there, and that the file may grow that far. False: refused. */
static bool check_places(struct places *places)
{
    struct qcow2_image *image = places->image;
    uint32_t bits = image->header.cluster_bits;
    struct places_cursor cursor = {0, 0};
    uint64_t end = places->table + places->table_size, place;
    if (!is_free_of_tables(image, places->table << bits, places->table_size << bits,
                           AMEND_USE_NEW))
        return false;
    for (uint64_t i = 0; i < places->blocks && next_place(places, &cursor, &place); i++) {
        end = place >= end ? place + 1 : end;
        if (!is_free_of_tables(image, place << bits, image->header.cluster_size, AMEND_USE_NEW))
            return false;
    }
    if (!is_device(places))
        image->file.growth_needed = (end << bits) - image->file.io->size;
    return extend_to(&image->file, end << bits);
}

/* Get ready to look for places; false: refused. */
static bool start_places(struct places *places, uint64_t end)
{
    struct image *file = &places->image->file;
    uint32_t bits = places->image->header.cluster_bits;
    uint64_t file_end = round_up(file->io->size, places->image->header.cluster_size) >> bits;
    if (is_device(places)) {
        places->scanned = 1; /* never the header's cluster */
        return true;
    }
    end = file_end > end ? file_end : end;
    if (end > OFFSET_MAX >> bits) /* of what is counted; no file is so large */
        return extend_to(file, UINT64_MAX);
    places->runs[0] = (struct run){end, OFFSET_MAX};
    places->run_count = 1;
    return true;
}

bool find_places(struct places *places, const uint64_t *counted, uint64_t *needed,
                 uint32_t block_bits, uint64_t end)
{
    struct image *file = &places->image->file;
    uint32_t cluster_size = places->image->header.cluster_size;
    uint32_t bits = places->image->header.cluster_bits;
    uint64_t last, blocks = count_blocks(counted, &last), wanted = last, bytes;
    if (!start_places(places, end))
        return false;
    for (;; wanted = last) {
        bytes = round_up((wanted + 1) * QCOW2_TABLE_ENTRY_SIZE, cluster_size);
        if (bytes > QCOW2_REFCOUNT_TABLE_SIZE_MAX)
            return refuse(file->verdict, REFUSAL_REFCOUNT_TABLE_FULL, AMEND_ERROR_OVERFLOW,
                          places->image->header.refcount_table_offset, bytes, 0);
        places->table_size = bytes >> bits;
        file->growth_needed = bytes + (blocks << bits);
        memcpy(needed, counted, PLACES_BLOCKS_MAX / 8);
        if (!lay_out(places, needed, blocks, block_bits, &last))
            return false;
        if (last < bytes / QCOW2_TABLE_ENTRY_SIZE)
            return check_places(places);
    }
}
