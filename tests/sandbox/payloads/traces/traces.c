/* Test side: an operation that does what it was asked, and leaves traces wherever it can write.
 *
 * Where that is, the image's last sector says: a count, then as many pairs of address and size,
 * of which the last one holds the workspace. It gives up if it finds a trace when it starts. The
 * last thing it does is to ring the doorbell for its result, which ends the run. */
#include "../rogue.h"

#ifndef MORE_TRACES
#define MORE_TRACES
#endif

#define TRACE 0x5a

static const struct AmendConfig *const config = (const struct AmendConfig *)OPERATION_CONFIG_ADDR;
static volatile uint8_t own_data[64];

static uint64_t vector_register(void)
{
    uint64_t value;
    __asm__ volatile("movq %%xmm7, %0" : "=r"(value));
    return value;
}

static uint32_t control_word(void)
{
    uint32_t value;
    __asm__ volatile("stmxcsr %0" : "=m"(value));
    return value;
}

static bool finds_a_trace(void)
{
    const uint8_t *window_end = (const uint8_t *)INSTAR_RAM_SIZE - 1;
    const uint8_t *queues_end = (const uint8_t *)INSTAR_QUEUE_ADDR + INSTAR_QUEUE_PAGES_SIZE - 1;
    return *(const volatile uint8_t *)INSTAR_STACK_ADDR || *(const volatile uint8_t *)window_end ||
           *(const volatile uint8_t *)queues_end || own_data[0] ||
           vector_register() || control_word() != 0x1f80;
}

/* From here on there is no stack, no data and no C. */
_Noreturn void leave_traces(const uint64_t *areas, uint64_t count);
__asm__(".pushsection .text.leave_traces, \"ax\", @progbits\n"
        "leave_traces:\n"
        "mov %rsi, %rbx\n"
        "mov %rdi, %rsi\n"
        "mov $0x5a, %eax\n"
        "1: mov (%rsi), %rdi\n"
        "mov 8(%rsi), %rcx\n"
        "add $16, %rsi\n"
        "rep stosb\n"
        "dec %rbx\n"
        "jnz 1b\n"
        "push $0x9fc0\n"
        "ldmxcsr (%rsp)\n"
        "movabs $0x5a5a5a5a5a5a5a5a, %rax\n" MORE_TRACES
        ".irp n, 0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15\n"
        "movq %rax, %xmm\\n\n"
        "pshufd $0, %xmm\\n, %xmm\\n\n"
        ".endr\n"
        ".rept 8\n"
        "fldpi\n"
        ".endr\n"
        "pushf\n"
        "orl $0x40cd5, (%rsp)\n" /* AC, OF, DF, SF, ZF, AF, PF, CF */
        "popf\n"
        "mov $0, %ecx\n"
        ".irp segment, ds, es\n"
        "mov %ecx, %\\segment\n"
        ".endr\n"
        ".irp register, rbx, rcx, rdx, rsi, rdi, rbp, rsp, r8, r9, r10, r11, r12, r13, r14, r15\n"
        "mov %rax, %\\register\n"
        ".endr\n"
        "mov $1, %eax\n" /* the transmit queue */
        "out %al, $0xe0\n"
        "ud2\n"
        ".popsection\n");

/* Make the frame that the executor holds back available; the doorbell is all that is missing. */
static void offer_frame(uint32_t size)
{
    volatile uint64_t *desc = (volatile uint64_t *)INSTAR_TRANSMIT_DESC_ADDR;
    volatile uint16_t *avail = (volatile uint16_t *)INSTAR_TRANSMIT_AVAIL_ADDR;
    desc[0] = INSTAR_AHEAD_ADDR + 0x2000; /* CORE_TRANSMIT_ADDR */
    desc[1] = size;
    avail[2] = 0;
    avail[1] = 1;
}

void operation_start(void)
{
    uint8_t *sector = calls->workspace + 512;
    const uint64_t *areas = (const uint64_t *)sector;
    struct block_range last = {config->image_size - 512, 512, sector};
    if (finds_a_trace())
        out8(INSTAR_PORT_EXIT, TRACE);
    write_toggle();
    calls->read_blocks(INSTAR_PHASE_COUNT, &last, 1); /* nothing waits any more */
    struct AmendResult result = honest_result(1);
    uint32_t size = send_options(&result);
    calls->send_frame(FRAME_RESULT, &result, sizeof(result), false);
    offer_frame(2 * sizeof(struct FrameHeader) + size + sizeof(result));
    leave_traces(areas + 1, areas[0]);
}
