/* Test side: as traces.c, with what a processor, unlike a software-paged KVM, may refuse: CR4 gives
 * the guest neither AVX nor the instructions that write the bases of FS and GS. */
#define MORE_TRACES                                                                                \
    "mov $0x5a5a5a5a, %ecx\n"                                                                      \
    "wrfsbase %rcx\n"                                                                              \
    "wrgsbase %rcx\n"                                                                              \
    "vmovq %rax, %xmm0\n"                                                                          \
    "vinsertf128 $1, %xmm0, %ymm0, %ymm0\n"
#include "traces.c"
