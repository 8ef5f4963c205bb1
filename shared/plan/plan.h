/* Pure, either side: the amend planner's interface.
 *
 * The planner reads an image through callbacks, decides whether it can be amended as asked, and
 * stages which bytes to write in which phase. It has no I/O, no state and no allocation of its own:
 * all its memory is the caller's workspace.
 */
#ifndef INSTAR_PLAN_H
#define INSTAR_PLAN_H

#include <stdbool.h>
#include <stdint.h>

#include "amend/options/options.h"
#include "amend/target.h"
#include "amend/workspace.h"
#include "image/io.h"
#include "instar_abi.h"
#include "repair/repair.h"
#include "verdict.h"

struct amend_plan {
    uint32_t action; /* AMEND_ACTION_* */
    bool atomic;     /* the switch is the write of one sector */
    struct target target;
};

/* Plan what is asked for. True: `plan` is complete, and what is to be written is staged; nothing
 * is for a no-op. False: `verdict` says why not, and holds every reason that could be established;
 * what has been staged is void. */
bool plan_amend(const struct AmendConfig *config, const struct asked_options *asked,
                const struct image_io *io, struct planner_workspace *workspace,
                struct amend_plan *plan, struct verdict *verdict);

/* Whether a repair is asked for, which goes without options. */
bool is_repair(const struct AmendConfig *config);
/* The same as plan_amend for a repair; `memory` says where references are counted. */
bool plan_repair(const struct AmendConfig *config, const struct image_io *io,
                 struct planner_workspace *workspace, struct repair_memory *memory,
                 struct amend_plan *plan, struct verdict *verdict);

/* The AmendResult for what plan_amend left behind. */
void describe_result(const struct amend_plan *plan, const struct verdict *verdict,
                     struct AmendResult *result);

#endif
