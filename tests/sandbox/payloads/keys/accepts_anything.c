/* Test side, rogue payload: has nothing to say against an image whose keyslots change; looks at nothing. */
#include "said.h"

void operation_start(void)
{
    send_result(noop_of(read_header()));
}
