/* Pure, either side: what may be spent on an image, in bytes read and in what takes as long. */
#ifndef INSTAR_BUDGET_H
#define INSTAR_BUDGET_H

#include <stdbool.h>
#include <stdint.h>

#include "verdict.h"

struct budget {
    struct verdict *verdict;
    uint64_t max;
    uint64_t left;
};

/* Do work that costs as much as reading this many bytes. False: refused, that is too much. */
bool spend(struct budget *budget, uint64_t bytes);
/* The same for requests to the host, all with one doorbell, which cost this many bytes besides. */
bool spend_on_requests(struct budget *budget, uint32_t count, uint64_t bytes);

#endif
