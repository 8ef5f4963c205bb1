/* Guest, untrusted: the memory functions that a freestanding compiler calls unasked (C11, 4). */
#include <stdint.h>

#include "string.h"

void *memcpy(void *restrict to, const void *restrict from, size_t size)
{
    void *result = to;
    __asm__ volatile("rep movsb" : "+D"(to), "+S"(from), "+c"(size) : : "memory");
    return result;
}

void *memmove(void *to, const void *from, size_t size)
{
    uint8_t *t = to;
    const uint8_t *f = from;
    if (t <= f || t >= f + size)
        return memcpy(to, from, size);
    while (size--) {
        t[size] = f[size];
        __asm__ volatile("" ::: "memory"); /* or the loop becomes a call to this function */
    }
    return to;
}

void *memset(void *to, int value, size_t size)
{
    void *result = to;
    __asm__ volatile("rep stosb" : "+D"(to), "+c"(size) : "a"(value) : "memory");
    return result;
}

int memcmp(const void *left, const void *right, size_t size)
{
    const uint8_t *l = left, *r = right;
    for (size_t i = 0; i < size; i++) {
        __asm__ volatile("" ::: "memory"); /* likewise */
        if (l[i] != r[i])
            return l[i] - r[i];
    }
    return 0;
}
