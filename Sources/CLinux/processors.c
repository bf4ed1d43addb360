#define _GNU_SOURCE
#include "CLinux.h"

#include <sched.h>

uint64_t clinux_allowed_cpus(void)
{
    uint64_t mask = 0;
    cpu_set_t set;
    if (sched_getaffinity(0, sizeof set, &set) < 0)
        return 0;
    for (int cpu = 0; cpu < 64; cpu++)
        if (CPU_ISSET(cpu, &set))
            mask |= (uint64_t)1 << cpu;
    return mask;
}

int clinux_allow_cpus(uint64_t mask)
{
    cpu_set_t set;
    CPU_ZERO(&set);
    for (int cpu = 0; cpu < 64; cpu++)
        if (mask >> cpu & 1)
            CPU_SET(cpu, &set);
    return sched_setaffinity(0, sizeof set, &set) < 0 ? -errno : 0;
}
