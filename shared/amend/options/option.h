/* Pure, either side: the seat of an option. */
#ifndef INSTAR_OPTION_H
#define INSTAR_OPTION_H

#include <stdbool.h>
#include <stdint.h>

#include "amend/amendment.h"
#include "instar_abi.h"

/* One option of an amend. All three are called for every amend, whether the option is given or not, and
 * each for all options, in the order of options.c, before the next one is called for any. */
struct option {
    /* Set in the target what is asked for; where nothing is, what follows from the options before. */
    void (*resolve)(struct amendment *amendment, const struct AmendConfig *config);
    /* Refuse what the image does not allow. Null: it always does. */
    void (*check)(struct amendment *amendment);
    /* Stage what has to change outside the header. False: refused. Null: nothing has to. */
    bool (*stage)(struct amendment *amendment);
};

#endif
