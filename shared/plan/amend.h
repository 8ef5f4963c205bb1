/* Pure, either side: the planner of an amend. */
#ifndef INSTAR_PLAN_AMEND_H
#define INSTAR_PLAN_AMEND_H

#include <stdbool.h>

#include "amend/options/options.h"
#include "amend/workspace.h"
#include "image/io.h"
#include "instar_abi.h"
#include "plan/plan.h"
#include "verdict.h"

/* Plan what is asked for. True: `plan` is complete, and what is to be written is staged; nothing
 * is for a no-op. False: `verdict` says why not, and holds every reason that could be established;
 * what has been staged is void. */
bool plan_amend(const struct AmendConfig *config, const struct asked_options *asked,
                const struct image_io *io, struct planner_workspace *workspace,
                struct amend_plan *plan, struct verdict *verdict);

#endif
