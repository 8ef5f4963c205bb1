/* Test side, rogue payload: finds allocated clusters on a disk without any. */
#include "told.h"

void operation_start(void)
{
    end_check((struct CheckResult){.allocated_clusters = 1, .compressed_clusters = 2, .fragmented_clusters = 3});
}
