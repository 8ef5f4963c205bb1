/* Test side, rogue payload: reports lazy refcounts without their bit. */
#include "../rogue.h"

void operation_start(void)
{
    struct AmendResult result = honest_result(1);
    write_toggle();
    result.resulting_compatible_features = 0;
    send_result(result);
}
