/* Test side, rogue payload: tells a LUKS header, which an image that is not encrypted cannot have. */
#include "told.h"

void operation_start(void)
{
    static const uint8_t header[INFO_LUKS_SIZE] = "LUKS";
    tell_name();
    tell(FRAME_INFO_LUKS, header, sizeof(header));
    end_info((struct InfoResult){.read = READ_ALL});
}
