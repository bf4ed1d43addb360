#define _GNU_SOURCE
#include "CLinux.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

// More than a process maps of others: 64 regions, twice while a table is replaced, and two areas.
enum { GUARD_COUNT = 1024 };

// `base` is written last and cleared first, so the handler sees whole guards only.
static struct {
    atomic_uintptr_t base; // 0: not in use
    atomic_size_t size;
    atomic_int event;
    atomic_int is_lost;
    atomic_int pages; // how many are replaced one by one; negative: always all at once
// Apart from what is small (Main/hot-symbols.txt).
} guards[GUARD_COUNT] __attribute__((section(".bss.guards")));

// Guards up to here have been in use.
static atomic_int guard_limit;
static pthread_mutex_t guard_lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_once_t guard_once = PTHREAD_ONCE_INIT;
static struct sigaction previous_action;

static int put_zeroes(uintptr_t base, size_t size)
{
    return syscall(SYS_mmap, base, size, PROT_READ | PROT_WRITE,
                   MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED | MAP_NORESERVE, -1, 0L) != -1;
}

int clinux_map_over(void *base, size_t size, int flags, int fd, int64_t offset)
{
    // Linux takes away what was there before it asks the file, which may refuse: so the file is
    // mapped elsewhere first, and moved.
    void *new = mmap(NULL, size, PROT_READ | PROT_WRITE, flags, fd, offset);
    if (new == MAP_FAILED)
        return -errno;
    if (mremap(new, size, size, MREMAP_MAYMOVE | MREMAP_FIXED, base) != MAP_FAILED)
        return 0;
    int code = errno;
    if (!put_zeroes((uintptr_t)base, size))
        abort();
    munmap(new, size);
    return -code;
}

static void tell(int event)
{
    uint64_t one = 1;
    // It fails only where the counter is full, and then the owner has been woken already.
    ssize_t ignored = write(event, &one, sizeof one);
    (void)ignored;
}

// Puts zeroes in the place of the guarded memory that holds `address`. The whole mapping goes at
// once: its owner is about to give it up, and single pages could be made to use up all mappings
// that a process may have. Only windows lose single pages, so many at most.
static int replace_lost_memory(uintptr_t address)
{
    int limit = atomic_load_explicit(&guard_limit, memory_order_acquire);
    for (int i = 0; i < limit; i++) {
        uintptr_t base = atomic_load_explicit(&guards[i].base, memory_order_acquire);
        size_t size = atomic_load_explicit(&guards[i].size, memory_order_acquire);
        if (base == 0 || address - base >= size ||
            atomic_load_explicit(&guards[i].base, memory_order_acquire) != base)
            continue;
        if (atomic_load(&guards[i].pages) >= 0) {
            int is_one = atomic_fetch_sub(&guards[i].pages, 1) > 0;
            if (!is_one)
                atomic_store(&guards[i].pages, 0);
            if (!(is_one ? put_zeroes(address & ~(uintptr_t)4095, 4096) : put_zeroes(base, size)))
                return 0;
            if (!is_one)
                atomic_store(&guards[i].is_lost, 1);
            tell(atomic_load(&guards[i].event));
            return 1;
        }
        // Another thread may have been here first.
        if (atomic_load(&guards[i].is_lost))
            return 1;
        if (!put_zeroes(base, size))
            return 0;
        atomic_store(&guards[i].is_lost, 1);
        tell(atomic_load(&guards[i].event));
        return 1;
    }
    return 0;
}

// Runs on the thread that touched the memory, in the middle of any code: nothing here locks or
// allocates.
static void on_bus_error(int signal, siginfo_t *info, void *context)
{
    (void)context;
    int error = errno;
    if (info->si_code != BUS_ADRERR || !replace_lost_memory((uintptr_t)info->si_addr)) {
        // The access is repeated and meets what was there before us; a signal that somebody sent
        // has to be sent again.
        sigaction(SIGBUS, &previous_action, NULL);
        if (info->si_code <= 0)
            raise(signal);
    }
    errno = error;
}

static void install_handler(void)
{
    struct sigaction action = {.sa_sigaction = on_bus_error, .sa_flags = SA_SIGINFO};
    sigemptyset(&action.sa_mask);
    sigaction(SIGBUS, &action, &previous_action);
}

static int add(void *base, size_t size, int event, int pages)
{
    pthread_once(&guard_once, install_handler);
    int result = -ENOSPC;
    pthread_mutex_lock(&guard_lock);
    for (int i = 0; i < GUARD_COUNT && result < 0; i++) {
        if (atomic_load(&guards[i].base) != 0)
            continue;
        atomic_store(&guards[i].size, size);
        atomic_store(&guards[i].event, event);
        atomic_store(&guards[i].is_lost, 0);
        atomic_store(&guards[i].pages, pages);
        atomic_store_explicit(&guards[i].base, (uintptr_t)base, memory_order_release);
        if (i >= atomic_load(&guard_limit))
            atomic_store_explicit(&guard_limit, i + 1, memory_order_release);
        result = i;
    }
    pthread_mutex_unlock(&guard_lock);
    return result;
}

int clinux_guard_add(void *base, size_t size, int event)
{
    return add(base, size, event, -1);
}

int clinux_guard_add_pages(void *base, size_t size, int event, int pages)
{
    return add(base, size, event, pages < 0 ? 0 : pages);
}

void clinux_guard_renew(int guard, int pages)
{
    atomic_store(&guards[guard].pages, pages < 0 ? 0 : pages);
    atomic_store(&guards[guard].is_lost, 0);
}

void clinux_guard_touch(void *address)
{
    // An access that changes nothing, and that no compiler makes a read.
    __asm__ volatile("lock orb $0, (%0)" : : "r"(address) : "memory", "cc");
}

void clinux_guard_remove(int guard)
{
    atomic_store(&guards[guard].base, 0);
}

int clinux_guard_is_lost(int guard)
{
    return atomic_load(&guards[guard].is_lost);
}
