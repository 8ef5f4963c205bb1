/* Test side, rogue payload: reports options that are not those of its result. */
#include "../rogue.h"

void operation_start(void)
{
    struct AmendResult result = honest_result(1);
    const struct number_record records[] = {
        NUMBER_RECORD(OPTION_COMPAT, OPTION_KIND_NUMBER, 2),
        NUMBER_RECORD(OPTION_LAZY_REFCOUNTS, OPTION_KIND_FLAG, 1),
        NUMBER_RECORD(OPTION_DATA_FILE_RAW, OPTION_KIND_FLAG, 0),
    };
    write_toggle();
    send_records(records, sizeof(records));
    calls->send_frame(FRAME_RESULT, &result, sizeof(result), true);
}
