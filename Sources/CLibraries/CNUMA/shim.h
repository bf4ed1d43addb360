#include <numa.h>
#include <numaif.h>

// The library's start, which it leaves to its constructor. The release build has none
// (Sources/VMM/Main/constructors.ld), and calls this before anything else of the library. A shared
// library does not show its start, and has done it.
extern void numa_init(void) __attribute__((weak));

static inline void cnuma_start(void)
{
    if (numa_init)
        numa_init();
}
