#define _GNU_SOURCE
#include "native_system_call.h"

#include <errno.h>
#include <sched.h>
#include <sys/syscall.h>
#include <unistd.h>

long native_system_call(long number)
{
    long result = syscall(number, 0L, 0L, 0L, 0L, 0L, 0L);
    return result < 0 ? -errno : result;
}

int native_stay_on_one_cpu(void)
{
    cpu_set_t all, one;
    if (sched_getaffinity(0, sizeof all, &all) < 0)
        return -errno;
    CPU_ZERO(&one);
    for (int cpu = 0; cpu < CPU_SETSIZE; cpu++)
        if (CPU_ISSET(cpu, &all)) {
            CPU_SET(cpu, &one);
            break;
        }
    return sched_setaffinity(0, sizeof one, &one) < 0 ? -errno : 0;
}

long native_ioctl(unsigned long request)
{
    long result = syscall(SYS_ioctl, -1L, request, 0L);
    return result < 0 ? -errno : result;
}
