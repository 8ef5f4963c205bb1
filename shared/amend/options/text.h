/* Pure, either side: text that is asked for in the place of what the header has. */
#ifndef INSTAR_TEXT_H
#define INSTAR_TEXT_H

#include "amend/options/option.h"

/* Ask for a text instead of the `stored` one, which has been read. Nothing, if none is given. */
void ask_text(const struct qcow2_image *image, const struct option_value *asked,
              struct header_text stored, struct target_text *text);

#endif
