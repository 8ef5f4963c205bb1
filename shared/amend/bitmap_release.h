/* Pure, either side: persistent bitmaps that are dropped. */
#ifndef INSTAR_BITMAP_RELEASE_H
#define INSTAR_BITMAP_RELEASE_H

#include <stdbool.h>
#include <stdint.h>

#include "amend/books.h"

/* Give up all clusters of persistent bitmaps, if the image says that they are consistent. False: refused. */
bool release_bitmaps(struct books *books);

#endif
