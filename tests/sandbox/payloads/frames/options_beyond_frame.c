/* Test side, rogue payload: reports an option whose value goes on after the frame. */
#include "../rogue.h"

void operation_start(void)
{
    struct AmendResult result = honest_result(1);
    struct number_record record = NUMBER_RECORD(OPTION_COMPAT, OPTION_KIND_NUMBER, 3);
    write_toggle();
    record.head.length = 16;
    send_records(&record, sizeof(record));
    calls->send_frame(FRAME_RESULT, &result, sizeof(result), true);
}
