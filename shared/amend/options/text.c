/* Pure, either side: text that is asked for in the place of what the header has. */
#include "amend/options/text.h"

#include <string.h>

void ask_text(const struct qcow2_image *image, const struct option_value *asked,
              struct header_text stored, struct target_text *text)
{
    if (!asked->given)
        return;
    *text = (struct target_text){
        .given = true,
        .changed = asked->length != stored.length ||
                   memcmp(asked->bytes, image->memory->header + stored.offset, stored.length) != 0,
        .bytes = asked->bytes,
        .length = asked->length,
    };
}
