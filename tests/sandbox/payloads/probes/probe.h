/* Test side: payloads that run one instruction which ring 3 may have, and print what it gives. */
#ifndef PROBE_H
#define PROBE_H

#include "../rogue.h"

static inline void print_bytes(const volatile uint8_t *bytes, uint32_t count)
{
    char text[3] = {0};
    while (count--) {
        text[0] = "0123456789abcdef"[bytes[count] >> 4];
        text[1] = "0123456789abcdef"[bytes[count] & 15];
        calls->debug(text);
    }
    calls->debug("\n");
}

/* The instruction's operand is memory at (%1), ten bytes of 0xee before. */
#define PROBE(instruction)                                                                         \
    void operation_start(void)                                                                     \
    {                                                                                              \
        volatile uint8_t bytes[10];                                                                \
        for (uint32_t i = 0; i < sizeof(bytes); i++)                                               \
            bytes[i] = 0xee;                                                                       \
        __asm__ volatile(instruction                                                               \
                         :                                                                         \
                         : "c"(0), "r"(bytes)                                                      \
                         : "rax", "rbx", "rdx", "memory");                                         \
        print_bytes(bytes, sizeof(bytes));                                                         \
    }

#endif
