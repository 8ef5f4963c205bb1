/* Test side, rogue payload: the planner, but the new L1 table keeps an entry behind the end. */
#include "../liar.h"

static void lie(uint32_t phase, uint64_t offset, uint8_t *bytes, uint64_t length)
{
    uint8_t *first = word_at(after_end(1), offset, bytes, length);
    if (phase == INSTAR_PHASE_PREPARE && first)
        store_be64(first + 16, load_be64(first));
}
