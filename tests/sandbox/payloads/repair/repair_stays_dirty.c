/* Test side, rogue payload: clears an autoclear bit, and calls that the repair. */
#include "../rogue.h"

void operation_start(void)
{
    struct AmendResult result = honest_result(0);
    read_header()[95] &= 3;
    write_sector(0);
    result.resulting_incompatible_features = 1;
    result.resulting_autoclear_features = 1;
    send_result(result);
}
