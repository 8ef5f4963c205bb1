/* Test side, rogue payload: sends half of a record's head. */
#include "../rogue.h"

void operation_start(void)
{
    struct AmendResult result = honest_result(1);
    const struct number_record records[] = {
        NUMBER_RECORD(OPTION_COMPAT, OPTION_KIND_NUMBER, 3),
        NUMBER_RECORD(OPTION_LAZY_REFCOUNTS, OPTION_KIND_FLAG, 1),
    };
    write_toggle();
    send_records(records, sizeof(records[0]) + 4);
    calls->send_frame(FRAME_RESULT, &result, sizeof(result), true);
}
