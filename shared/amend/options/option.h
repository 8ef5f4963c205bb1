/* Pure, either side: the seat of an option. */
#ifndef INSTAR_OPTION_H
#define INSTAR_OPTION_H

#include <stdbool.h>
#include <stdint.h>

#include "amend/amendment.h"
#include "instar_abi.h"

/* What is asked of an option, or what holds in the end. */
struct option_value {
    bool given;
    uint64_t number;      /* of a flag or number */
    const uint8_t *bytes; /* of OPTION_KIND_BYTES */
    uint32_t length;
};

/* One option of an amend. The functions are called for every amend, whether the option is given or not,
 * and each for all options, in the order of options.c, before the next one is called for any. */
struct option {
    uint32_t key;  /* OPTION_* */
    uint32_t kind; /* OPTION_KIND_* */
    uint32_t most; /* bytes of a value of OPTION_KIND_BYTES */
    /* Set in the target what is asked for; where nothing is, what follows from the options before. */
    void (*resolve)(struct amendment *amendment, const struct option_value *asked);
    /* Refuse what the image does not allow. Null: it always does. */
    void (*check)(struct amendment *amendment);
    /* Refuse what stage() would, of an image that is refused already, so that nothing will be staged; its
     * tables can be followed. Null: there is no such thing. */
    void (*foresee)(struct amendment *amendment);
    /* Stage what has to change outside the header. False: refused. Null: nothing has to. */
    bool (*stage)(struct amendment *amendment);
    /* What holds in the end. Null: bytes, which the host reads in the header itself. */
    struct option_value (*tell)(const struct target *target);
};

#endif
