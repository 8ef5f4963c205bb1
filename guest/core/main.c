/* Guest, untrusted: the executor's entry, its way out, and the table that operations call. */
#include "core.h"

_Static_assert(CORE_WORKSPACE_ADDR + CALL_TABLE_WORKSPACE_MIN <= INSTAR_RAM_SIZE,
               "the workspace is smaller than operations may count on");

_Noreturn void exit_vm(enum exit_code code)
{
    for (;;)
        out8(INSTAR_PORT_EXIT, (uint8_t)code);
}

static void print(const char *text)
{
    for (; *text; text++)
        out8(INSTAR_PORT_SERIAL, (uint8_t)*text);
}

__attribute__((used, section(".call_table"))) static const struct call_table call_table = {
    .magic = CALL_TABLE_MAGIC,
    .version = INSTAR_ABI_VERSION,
    .read_blocks = block_read,
    .write_blocks = block_write,
    .zero_blocks = block_zero,
    .send_frame = transmit_frame,
    .debug = print,
    .workspace = (uint8_t *)CORE_WORKSPACE_ADDR,
    .scatter_blocks = block_scatter,
};

/* The host starts here, with the operation's entry in RDI, the size of RAM in RSI, and a stack as after
 * a call. */
_Noreturn void core_start(operation_entry *operation, uint64_t ram_size);

_Noreturn void core_start(operation_entry *operation, uint64_t ram_size)
{
    operation(ram_size - CORE_WORKSPACE_ADDR);
    exit_vm(EXIT_NO_RESULT);
}
