/* Test side, rogue payload: finds as much of everything as a number can say. */
#include "told.h"

void operation_start(void)
{
    end_check((struct CheckResult){
        .check_errors = ONES,
        .corruptions = ONES,
        .leaks = ONES,
        .overlaps = ONES,
        .total_clusters = ONES,
        .allocated_clusters = ONES,
        .fragmented_clusters = ONES,
        .compressed_clusters = ONES,
        .image_end_offset = ONES,
    });
}
