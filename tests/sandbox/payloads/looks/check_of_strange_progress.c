/* Test side, rogue payload: tells of a progress that goes to and fro, and beyond its end. */
#include "told.h"

void operation_start(void)
{
    static const struct AmendProgress told[] = {
        {5, 9}, {ONES, ONES}, {ONES, 1}, {0, 0}, {1, 0}, {1, ONES}, {0, 3}, {2, 3},
    };
    for (uint32_t i = 0; i < sizeof(told) / sizeof(told[0]); i++)
        tell(FRAME_PROGRESS, &told[i], sizeof(told[i]));
    end_check((struct CheckResult){.total_clusters = 1});
}
