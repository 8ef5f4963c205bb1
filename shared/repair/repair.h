/* Pure, either side: makes refcounts and flags what the tables of the image say. */
#ifndef INSTAR_REPAIR_H
#define INSTAR_REPAIR_H

#include <stdbool.h>
#include <stdint.h>

#include "amend/target.h"
#include "amend/recode.h"
#include "inspect/sink.h"
#include "qcow2/image.h"

enum repair_extent {
    REPAIR_LEAKS,      /* refcounts that are too high; flags, if nothing else is wrong */
    REPAIR_EVERYTHING,
};

/* Memory for a repair, of which only the first two need be set. */
struct repair_memory {
    uint8_t *counts; /* where references are counted, aligned to 8 bytes */
    uint64_t size;   /* in bytes */
    struct record_list findings;
};

/* Count all references and stage what is wrong. Refcounts that are too high fall where they are; if one is too
 * low, all of them are written anew in new clusters, for which the target gets another place. The target is
 * not dirty if nothing is wrong any more. False: refused, as only a guess could repair the image. */
bool stage_repair(struct qcow2_image *image, struct target *target,
                  struct recode_memory *recoded, struct repair_memory *memory,
                  enum repair_extent extent);

#endif
