/* Test side, rogue payload: tells names that a terminal would obey, and the largest numbers that there are. */
#include "told.h"

void operation_start(void)
{
    const struct told_snapshot snapshot = {
        {ONES, ONES, ONES, ONES, ONES - 1, UINT32_MAX, UINT32_MAX, UINT32_MAX, 8, 16},
        "\r\n\x1b[2J\xff",
        "\x1b]0;x\a\xc2\x9b\n\xe2\x80\xae",
    };
    const struct told_bitmap bitmap = {{ONES, UINT32_MAX, UINT32_MAX, 63, 8}, "\x1b[31m\n\r"};
    const struct InfoFeature feature = {0, 40, "\x1b[8m\n"};
    tell_text(INFO_TEXT_BACKING_FILE, 0, "\x1b[2J", 4);
    tell_text(INFO_TEXT_BACKING_FORMAT, 0, "\n\x1b[A\xff", 5);
    tell_text(INFO_TEXT_DATA_FILE, 0, "json:{\"a\":\"\x1b\"}\n", 15);
    tell(FRAME_INFO_SNAPSHOTS, &snapshot, sizeof(snapshot));
    tell(FRAME_INFO_BITMAPS, &bitmap, sizeof(bitmap));
    tell(FRAME_INFO_FEATURES, &feature, sizeof(feature));
    end_info((struct InfoResult){.read = READ_ALL, .nb_bitmaps = 1, .snapshots_told = 1, .bitmaps_told = 1});
}
