/* Test side: what the lies are lies about: an operation that turns lazy refcounts on, as asked. */
#include "../rogue.h"

void operation_start(void)
{
    write_toggle();
    send_result(honest_result(1));
}
