/* Test side, rogue payload: reports a string without an end. */
#include "../rogue.h"

void operation_start(void)
{
    struct AmendResult result = honest_result(1);
    struct number_record record = {{OPTION_COMPAT, OPTION_KIND_BYTES, UINT32_MAX}, 0x3030303030303030};
    write_toggle();
    send_records(&record, sizeof(record));
    calls->send_frame(FRAME_RESULT, &result, sizeof(result), true);
}
