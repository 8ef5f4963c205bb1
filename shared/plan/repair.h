/* Pure, either side: the planner of a repair. */
#ifndef INSTAR_PLAN_REPAIR_H
#define INSTAR_PLAN_REPAIR_H

#include <stdbool.h>

#include "amend/workspace.h"
#include "image/io.h"
#include "instar_abi.h"
#include "plan/plan.h"
#include "repair/repair.h"
#include "verdict.h"

/* Whether a repair is asked for, which goes without options. */
bool is_repair(const struct AmendConfig *config);
/* The same as plan_amend() for a repair; `memory` says where references are counted. */
bool plan_repair(const struct AmendConfig *config, const struct image_io *io,
                 struct planner_workspace *workspace, struct repair_memory *memory,
                 struct amend_plan *plan, struct verdict *verdict);

#endif
