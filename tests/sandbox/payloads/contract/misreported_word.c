/* Test side, rogue payload: reports a feature that is not there. */
#include "../rogue.h"

void operation_start(void)
{
    struct AmendResult result = honest_result(1);
    write_toggle();
    result.resulting_incompatible_features = 4;
    send_result(result);
}
