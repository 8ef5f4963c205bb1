/* Pure, either side: the reasons to refuse an image, collected as they are found. */
#ifndef INSTAR_VERDICT_H
#define INSTAR_VERDICT_H

#include <stdbool.h>
#include <stdint.h>

#include "instar_abi.h"

#define VERDICT_NAMES_SIZE 1152u    /* with all refusals these two fit one transmit buffer */
#define VERDICT_SNAPSHOTS_SIZE 736u

struct verdict {
    uint32_t count; /* of refusals, which are in the order found */
    bool unsound;   /* something was refused that keeps the image's tables from being followed */
    struct AmendRefusal refusals[REFUSAL_MAX];
    uint32_t names_size;               /* in bytes; of the bitmaps that are in the way */
    uint8_t names[VERDICT_NAMES_SIZE]; /* as FRAME_NAMES has them */
    uint32_t snapshots_size;           /* in bytes; of the snapshots that are in the way */
    uint8_t snapshots[VERDICT_SNAPSHOTS_SIZE]; /* as FRAME_SNAPSHOTS has them */
};

/* Nothing is refused yet. */
void start_verdict(struct verdict *verdict);

/* Note a reason to refuse; of one reason, and of all, only the first are kept. Returns false. */
bool refuse(struct verdict *verdict, uint32_t reason, uint32_t error, uint64_t detail0,
            uint64_t detail1, uint64_t detail2);

#endif
