/* Test side, rogue payload: fills its queue with requests that scatter sectors in descending order. */
#include "../rogue.h"

enum { NUMBERS = 512 };

void operation_start(void)
{
    uint8_t *window = calls->workspace;
    struct block_header *header = (struct block_header *)(void *)(window + 4096);
    uint64_t *numbers = (uint64_t *)(void *)(window + 16384);
    for (int i = 0; i < NUMBERS; i++)
        numbers[i] = (uint64_t)((NUMBERS - 1 - i));
    *header = (struct block_header){INSTAR_BLOCK_SCATTER, 0, 0};
    block_descriptors[0] = (struct descriptor){(uintptr_t)header, sizeof(*header), 1, 1};
    block_descriptors[1] = (struct descriptor){(uintptr_t)numbers, NUMBERS * 8, 1, 2};
    block_descriptors[2] = (struct descriptor){(uintptr_t)window + 65536, NUMBERS * 512, 1, 3};
    block_descriptors[3] = (struct descriptor){(uintptr_t)window + 8192, 1, 2, 0};
    struct available *available = (struct available *)INSTAR_BLOCK_AVAIL_ADDR;
    for (;;) {
        for (int i = 0; i < INSTAR_BLOCK_QUEUE_SIZE; i++)
            available->ring[available->index++ % INSTAR_BLOCK_QUEUE_SIZE] = 0;
        out8(INSTAR_PORT_NOTIFY, INSTAR_BLOCK_QUEUE);
    }
}
