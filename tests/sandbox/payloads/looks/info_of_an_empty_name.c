/* Test side, rogue payload: tells a backing file whose name is empty to whoever reads it as C does. */
#include "told.h"

void operation_start(void)
{
    tell_text(INFO_TEXT_BACKING_FILE, 0, "\0ase", 4);
    end_info((struct InfoResult){.read = READ_ALL});
}
