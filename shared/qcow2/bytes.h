/* Pure, either side: big-endian loads and stores, as qcow2 stores all its numbers; bits of arrays. */
#ifndef INSTAR_BYTES_H
#define INSTAR_BYTES_H

#include <stdbool.h>
#include <stdint.h>

static inline uint32_t load_be16(const uint8_t *p)
{
    return (uint32_t)p[0] << 8 | p[1];
}

static inline uint32_t load_be32(const uint8_t *p)
{
    return load_be16(p) << 16 | load_be16(p + 2);
}

static inline uint64_t load_be64(const uint8_t *p)
{
    return (uint64_t)load_be32(p) << 32 | load_be32(p + 4);
}

static inline void store_be32(uint8_t *p, uint32_t value)
{
    for (int i = 0; i < 4; i++)
        p[i] = (uint8_t)(value >> (24 - 8 * i));
}

static inline void store_be64(uint8_t *p, uint64_t value)
{
    store_be32(p, (uint32_t)(value >> 32));
    store_be32(p + 4, (uint32_t)value);
}

static inline void set_bit(uint64_t *bits, uint64_t n)
{
    bits[n / 64] |= UINT64_C(1) << n % 64;
}

/* Clear bit `n`; returns whether it was set. */
static inline bool take_bit(uint64_t *bits, uint64_t n)
{
    uint64_t bit = UINT64_C(1) << n % 64, was = bits[n / 64] & bit;
    bits[n / 64] &= ~bit;
    return was;
}

/* The smallest multiple of `unit`, a power of two, that is at least `value`; value + unit must not wrap. */
static inline uint64_t round_up(uint64_t value, uint64_t unit)
{
    return (value + unit - 1) & ~(unit - 1);
}

#endif
