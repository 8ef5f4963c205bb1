/* Pure, either side: all options of an amend, and their records in the ABI. */
#ifndef INSTAR_OPTIONS_H
#define INSTAR_OPTIONS_H

#include "amend/options/option.h"

/* In the order in which they are resolved, checked and staged; the last one is null. */
extern const struct option *const all_options[];

/* What is asked for, by key. */
struct asked_options {
    struct option_value values[OPTION_KEY_MAX + 1];
};

/* Read option records. False: they are malformed, or about something that is no option. The values of
 * OPTION_KIND_BYTES stay where they are. */
bool read_options(const uint8_t *records, uint32_t size, struct asked_options *asked);
/* Whether all of this can be asked for at once: a change of the tables is asked for alone. */
bool is_one_step(const struct asked_options *asked);
/* Write a record for what holds of each option that tells it; returns their size. */
uint32_t write_options(const struct target *target, uint8_t records[FRAME_PAYLOAD_MAX]);

#endif
