/* Test side, rogue payload: clears the dirty bit, whatever else the image is. */
#include "../rogue.h"

void operation_start(void)
{
    repaired_header();
    send_repair();
}
