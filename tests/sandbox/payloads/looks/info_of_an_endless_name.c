/* Test side, rogue payload: tells a name in one piece after the other. */
#include "told.h"

void operation_start(void)
{
    static const char piece[1000];
    for (uint32_t offset = 0;; offset += sizeof(piece))
        tell_text(INFO_TEXT_DATA_FILE, offset, piece, sizeof(piece));
}
