/* Test side: what these payloads say is true of the header, so that no other lie is found first. */
#ifndef SAID_H
#define SAID_H

#include "../rogue.h"

/* That the image needs no change. */
SHARED struct AmendResult noop_of(const uint8_t *header)
{
    struct AmendResult result = honest_result(0);
    result.action = AMEND_ACTION_NOOP;
    result.resulting_autoclear_features = header[95];
    return result;
}

#endif
