/* Test side, rogue payload: tells a backing file with another name than can be in the header. */
#include "told.h"

void operation_start(void)
{
    tell_text(INFO_TEXT_BACKING_FILE, 0, "base2", 5);
    end_info((struct InfoResult){.read = READ_ALL});
}
