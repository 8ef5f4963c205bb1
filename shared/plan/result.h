/* Pure, either side: the result, as the ABI has it. */
#ifndef INSTAR_RESULT_H
#define INSTAR_RESULT_H

#include "instar_abi.h"
#include "plan/plan.h"
#include "verdict.h"

/* The AmendResult for what plan_amend() or plan_repair() left behind. */
void describe_result(const struct amend_plan *plan, const struct verdict *verdict,
                     struct AmendResult *result);

#endif
