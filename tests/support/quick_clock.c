/* Test side: has each look at the time that a process has used find a second more.
 *
 * Loaded into qemu-img, which tries numbers of PBKDF2 iterations until one takes it long enough:
 * the first one does then, and an iter-time of 1 ms comes to the least number. Else nothing is
 * changed of what it does. */
#define _GNU_SOURCE
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

int getrusage(__rusage_who_t who, struct rusage *usage)
{
    static long seconds;
    int status = (int)syscall(SYS_getrusage, who, usage);
    usage->ru_utime.tv_sec += __atomic_add_fetch(&seconds, 1, __ATOMIC_RELAXED);
    return status;
}
