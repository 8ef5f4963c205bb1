/* Guest, untrusted: the ELF note by which the host's loader knows the ABI version of an image. */
#include "instar_abi.h"

struct abi_note {
    uint32_t name_size;
    uint32_t descriptor_size;
    uint32_t type;
    char name[8];
    uint32_t version;
};

__attribute__((used, section(".note.instar"))) static const struct abi_note abi_note = {
    .name_size = sizeof("instar"),
    .descriptor_size = sizeof(uint32_t),
    .type = INSTAR_NOTE_TYPE,
    .name = "instar",
    .version = INSTAR_ABI_VERSION,
};
