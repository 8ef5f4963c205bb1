/* Pure, either side: the reasons to refuse an image, collected as they are found. */
#ifndef INSTAR_VERDICT_H
#define INSTAR_VERDICT_H

#include <stdbool.h>
#include <stdint.h>

#include "instar_abi.h"

#define VERDICT_NAMES_SIZE 1536u /* with all refusals they fit one transmit buffer */

struct verdict {
    uint32_t count; /* of refusals, which are in the order found */
    bool unsound;   /* something was refused that keeps the image's tables from being followed */
    struct AmendRefusal refusals[REFUSAL_MAX];
    uint32_t names_size;               /* in bytes; of the bitmaps that are in the way */
    uint8_t names[VERDICT_NAMES_SIZE]; /* as FRAME_NAMES has them */
};

/* Nothing is refused yet. */
void start_verdict(struct verdict *verdict);

/* Note a reason to refuse; of one reason, and of all, only so many are kept. Returns false. */
bool refuse(struct verdict *verdict, uint32_t reason, uint32_t error, uint64_t detail0,
            uint64_t detail1, uint64_t detail2);

#endif
