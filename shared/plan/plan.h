/* Pure, either side: what a planner comes to.
 *
 * A planner reads an image through callbacks, decides whether it can be changed as asked, and
 * stages which bytes to write in which phase. It has no I/O, no state and no allocation of its own:
 * all its memory is the caller's workspace.
 */
#ifndef INSTAR_PLAN_H
#define INSTAR_PLAN_H

#include <stdbool.h>
#include <stdint.h>

#include "amend/target.h"

struct amend_plan {
    uint32_t action; /* AMEND_ACTION_* */
    bool atomic;     /* the switch is the write of one sector */
    struct target target;
};

#endif
