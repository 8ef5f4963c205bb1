/* Test side: what a virtual machine costs a program in C: life and exits of the one that it is given.
 *
 * bench_floor FILE ROUNDS: FILE holds what KVM_GET_SREGS and KVM_GET_REGS gave, then the memory. The
 * guest ends with an OUT to port 0xf4. Prints the medians of whole lives and of the runs alone in
 * microseconds, and the number of exits. */
#include <fcntl.h>
#include <linux/kvm.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec * 1e6 + (double)t.tv_nsec / 1e3;
}

static int compare(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static void check(int result)
{
    if (result < 0) {
        perror("bench_floor");
        exit(1);
    }
}

int main(int argc, char **argv)
{
    enum { ROUNDS_MAX = 10000, RAM_MAX = 1 << 26 };
    static uint8_t contents[RAM_MAX];
    static double lives[ROUNDS_MAX], runs[ROUNDS_MAX];
    struct kvm_sregs sregs;
    struct kvm_regs regs;
    int exits = 0, rounds = argc == 3 ? atoi(argv[2]) : 0;
    FILE *file = rounds > 0 && rounds <= ROUNDS_MAX ? fopen(argv[1], "rb") : NULL;
    if (!file || fread(&sregs, sizeof(sregs), 1, file) != 1 ||
        fread(&regs, sizeof(regs), 1, file) != 1)
        return 2;
    size_t size = fread(contents, 1, RAM_MAX, file);
    for (int round = 0; round < rounds; round++) {
        double start = now();
        int kvm = open("/dev/kvm", O_RDWR | O_CLOEXEC);
        check(kvm);
        size_t run_size = (size_t)ioctl(kvm, KVM_GET_VCPU_MMAP_SIZE, 0);
        int vm = ioctl(kvm, KVM_CREATE_VM, 0);
        check(vm);
        void *ram = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        memcpy((uint8_t *)ram, contents, 0x40000); /* the rest is zeros, but for the tables */
        memcpy((uint8_t *)ram + size - 0x10000, contents + size - 0x10000, 0x10000);
        struct kvm_userspace_memory_region region = {0, 0, 0, size, (uintptr_t)ram};
        check(ioctl(vm, KVM_SET_USER_MEMORY_REGION, &region));
        int vcpu = ioctl(vm, KVM_CREATE_VCPU, 0);
        check(vcpu);
        struct kvm_run *run = mmap(NULL, run_size, PROT_READ | PROT_WRITE, MAP_SHARED, vcpu, 0);
        check(ioctl(vcpu, KVM_SET_SREGS, &sregs));
        check(ioctl(vcpu, KVM_SET_REGS, &regs));
        double before = now();
        for (exits = 1; check(ioctl(vcpu, KVM_RUN, 0)), 1; exits++) {
            if (run->exit_reason != KVM_EXIT_IO)
                return 3;
            if (run->io.port == 0xf4)
                break;
        }
        runs[round] = now() - before;
        munmap(run, run_size);
        close(vcpu);
        close(vm);
        munmap(ram, size);
        close(kvm);
        lives[round] = now() - start;
    }
    qsort(lives, (size_t)rounds, sizeof(double), compare);
    qsort(runs, (size_t)rounds, sizeof(double), compare);
    printf("%.1f %.1f %d\n", lives[rounds / 2], runs[rounds / 2], exits);
    return 0;
}
