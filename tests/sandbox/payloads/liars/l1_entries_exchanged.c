/* Test side, rogue payload: the planner, but two entries of the new L1 table are exchanged. */
#include "../liar.h"

static void lie(uint32_t phase, uint64_t offset, uint8_t *bytes, uint64_t length)
{
    uint8_t *first = word_at(after_end(1), offset, bytes, length);
    if (phase != INSTAR_PHASE_PREPARE || !first)
        return;
    uint64_t entry = load_be64(first);
    store_be64(first, load_be64(first + 8));
    store_be64(first + 8, entry);
}
