/* Test side, rogue payload: hides bytes in the padding of a record. */
#include "../rogue.h"

void operation_start(void)
{
    struct AmendResult result = honest_result(1);
    struct number_record record = NUMBER_RECORD(OPTION_COMPAT, OPTION_KIND_NUMBER, 3);
    write_toggle();
    record.head.length = 4;
    record.value = UINT64_C(0x100000003);
    send_records(&record, sizeof(record));
    calls->send_frame(FRAME_RESULT, &result, sizeof(result), true);
}
