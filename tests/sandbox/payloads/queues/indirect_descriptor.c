/* Test side, rogue payload: submits an indirect table. */
#include "../rogue.h"

void operation_start(void)
{
    block_descriptors[0] = (struct descriptor){(uintptr_t)calls->workspace, 48, 4, 0};
    submit_block();
}
