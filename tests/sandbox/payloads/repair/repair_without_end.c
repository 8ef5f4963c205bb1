/* Test side, rogue payload: repairs, and stages more and more after the end of the file. */
#include "../rogue.h"

#define CHUNK 0x40000

void operation_start(void)
{
    const struct AmendConfig *asked = (const struct AmendConfig *)OPERATION_CONFIG_ADDR;
    for (uint64_t offset = asked->image_size;; offset += CHUNK) {
        struct block_range range = {offset, CHUNK, calls->workspace};
        if (!calls->write_blocks(INSTAR_PHASE_PREPARE, &range, 1))
            break;
    }
    repaired_header();
    send_repair();
}
