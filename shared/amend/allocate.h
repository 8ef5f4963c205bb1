/* Pure, either side: free clusters of an image. */
#ifndef INSTAR_ALLOCATE_H
#define INSTAR_ALLOCATE_H

#include <stdbool.h>
#include <stdint.h>

#include "amend/books.h"

/* Take `count` free clusters in a row, each with this many references; *offset is the first one's
 * place. False: refused. The books must have been told to expect them. */
bool allocate_clusters(struct books *books, uint64_t count, uint64_t references, uint64_t *offset);

#endif
