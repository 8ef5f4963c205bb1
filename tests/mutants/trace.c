/* Test side: notes which blocks of the planner run, by their distance from the library's start. */
#include <stdint.h>

#define SPACE (1u << 20)

extern const unsigned char __ehdr_start[] __attribute__((visibility("hidden")));

unsigned char trace_seen[SPACE];

/* What -fsanitize-coverage=trace-pc calls at the start of each block. */
void __sanitizer_cov_trace_pc(void)
{
    uintptr_t place = (uintptr_t)__builtin_return_address(0) - (uintptr_t)__ehdr_start;

    if (place < SPACE)
        trace_seen[place] = 1;
}
