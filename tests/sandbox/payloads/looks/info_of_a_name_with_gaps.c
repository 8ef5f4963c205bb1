/* Test side, rogue payload: tells the end of a name, and not its start. */
#include "told.h"

void operation_start(void)
{
    tell_text(INFO_TEXT_BACKING_FILE, 2, "se", 2);
    end_info((struct InfoResult){.read = READ_ALL});
}
