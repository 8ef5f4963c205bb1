/* Test side: the books alone, for images with refcounts of any width; see library.h. */
#include "amend/allocate.h"
#include "amend/books.h"
#include "host/memory_image.h"
#include "host/library.h"
#include "qcow2/extensions.h"
#include "qcow2/header.h"
#include "qcow2/snapshots.h"

static _Thread_local struct qcow2_memory image_memory;
static _Thread_local struct books_memory books_memory;
static _Thread_local uint8_t sector[SECTOR_SIZE];

static bool change(struct books *books, struct host_change *change)
{
    if (change->take)
        return allocate_clusters(books, change->count, change->references, &change->offset);
    for (uint64_t i = 0; i < change->count; i++)
        if (!release_cluster(books, change->offset + (i << books->image->header.cluster_bits),
                             change->references, AMEND_USE_DATA))
            return false;
    return true;
}

void host_change_books(const uint8_t *bytes, uint64_t size, uint64_t max_growth,
                       struct host_change *changes, uint32_t count, struct host_outcome *outcome)
{
    struct memory_image memory;
    struct qcow2_image image;
    struct books books;
    struct verdict verdict;
    uint64_t expected = 0;
    open_memory(&memory, bytes, size, max_growth, outcome);
    const struct image_io io = memory_io(&memory, false);
    start_verdict(&verdict);
    open_qcow2(&image, &image_memory, &io, &verdict, UINT64_MAX);
    image.file.max_growth = max_growth;
    open_books(&books, &books_memory, &image);
    bool done = parse_header(&image) && parse_extensions(&image);
    if (done)
        check_snapshots(&image, 0, 0);
    for (uint32_t i = 0; i < count; i++)
        expected += changes[i].take ? changes[i].count : 0;
    done = done && expect_clusters(&books, expected);
    for (uint32_t i = 0; i < count; i++)
        done = done && change(&books, &changes[i]);
    outcome->planned = done && finish_books(&books, sector) && verdict.count == 0;
    tell_outcome(outcome, &verdict);
}
