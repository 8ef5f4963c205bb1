/* Pure, either side: bits and zeros of arrays, rounding, and the larger of two numbers. */
#ifndef INSTAR_BITS_H
#define INSTAR_BITS_H

#include <stdbool.h>
#include <stdint.h>

static inline void set_bit(uint64_t *bits, uint64_t n)
{
    bits[n / 64] |= UINT64_C(1) << n % 64;
}

static inline bool has_bit(const uint64_t *bits, uint64_t n)
{
    return bits[n / 64] >> n % 64 & 1;
}

/* Clear bit `n`; returns whether it was set. */
static inline bool take_bit(uint64_t *bits, uint64_t n)
{
    bool was = has_bit(bits, n);
    bits[n / 64] &= ~(UINT64_C(1) << n % 64);
    return was;
}

/* Whether so many bytes are all 0; both they and their address are multiples of 8. Entry by entry, a
 * long table would take several times as long. */
static inline bool is_zero(const uint8_t *bytes, uint64_t size)
{
    typedef uint64_t __attribute__((may_alias)) word;
    const word *words = (const word *)bytes;
    uint64_t any = 0;
    for (uint64_t i = 0; i < size / sizeof(*words); i++)
        any |= words[i];
    return any == 0;
}

/* The smallest multiple of `unit`, a power of two, that is at least `value`; value + unit must not wrap. */
static inline uint64_t round_up(uint64_t value, uint64_t unit)
{
    return (value + unit - 1) & ~(unit - 1);
}

static inline uint64_t larger(uint64_t a, uint64_t b)
{
    return a > b ? a : b;
}

static inline uint64_t smaller(uint64_t a, uint64_t b)
{
    return a < b ? a : b;
}

#endif
