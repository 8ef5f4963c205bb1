/* Test side, rogue payload: submits a chain that leaves the table. */
#include "../rogue.h"

void operation_start(void)
{
    block_descriptors[0] = (struct descriptor){(uintptr_t)calls->workspace, 16, 1, 128};
    submit_block();
}
