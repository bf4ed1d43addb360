#define _GNU_SOURCE
#include "native_system_call.h"

#include <errno.h>
#include <unistd.h>

long native_system_call(long number)
{
    long result = syscall(number, 0L, 0L, 0L, 0L, 0L, 0L);
    return result < 0 ? -errno : result;
}
