/* Test side, rogue payload: refuses, and counts one reason more. */
#include "told.h"

void operation_start(void)
{
    const struct AmendRefusal refusal = {REFUSAL_DIRTY, AMEND_ERROR_DIRTY, {0, 0, 0}};
    tell(FRAME_REFUSALS, &refusal, sizeof(refusal));
    end_check((struct CheckResult){.refusal_count = 2});
}
