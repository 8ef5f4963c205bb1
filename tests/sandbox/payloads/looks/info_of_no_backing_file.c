/* Test side, rogue payload: tells no backing file, though the header has one. */
#include "told.h"

void operation_start(void)
{
    end_info((struct InfoResult){.read = READ_ALL});
}
