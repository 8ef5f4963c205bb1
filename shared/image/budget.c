/* Pure, either side: keeps the work on an untrusted image within its budget. */
#include "image/budget.h"

bool spend(struct budget *budget, uint64_t bytes)
{
    if (bytes <= budget->left) {
        budget->left -= bytes;
        return true;
    }
    budget->left = 0;
    return refuse(budget->verdict, REFUSAL_WORK_LIMIT, AMEND_ERROR_WORK_LIMIT, budget->max, 0, 0);
}

bool spend_on_requests(struct budget *budget, uint32_t count, uint64_t bytes)
{
    return spend(budget, AMEND_DOORBELL_WORK + count * (uint64_t)AMEND_REQUEST_WORK + bytes);
}
