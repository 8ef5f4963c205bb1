/* Pure, either side: persistent bitmaps, for a check. */
#ifndef INSTAR_BITMAP_TABLES_H
#define INSTAR_BITMAP_TABLES_H

#include <stdbool.h>

#include "inspect/checking.h"

/* Count what the bitmaps name. False: refused. */
bool count_bitmaps(struct checking *checking);

#endif
