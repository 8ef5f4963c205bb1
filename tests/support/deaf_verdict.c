/* Test side: shared/verdict.c, but deaf to one reason: the planner goes on as if nothing were wrong. */
#define refuse hear
#include "verdict.c"
#undef refuse

uint32_t deaf_to; /* the reason's number; 0: none */

bool refuse(struct verdict *verdict, uint32_t reason, uint32_t error, uint64_t detail0,
            uint64_t detail1, uint64_t detail2)
{
    return reason == deaf_to || hear(verdict, reason, error, detail0, detail1, detail2);
}
