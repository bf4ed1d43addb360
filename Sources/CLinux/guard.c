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

#include "guard.h"

// More than a process maps of others: 64 regions, twice while a table is replaced, and two areas.
enum { GUARD_COUNT = 1024 };

// `base` is written last and cleared first, so the handler sees whole guards only.
static struct {
    atomic_uintptr_t base; // 0: not in use
    atomic_size_t size;
    atomic_int event;
    atomic_int is_lost;
    _Atomic(struct clinux_window *) window; // mends its pages itself
// Apart from what is small (Main/hot-symbols.txt).
} guards[GUARD_COUNT] __attribute__((section(".bss.guards")));

// Guards up to here have been in use.
static atomic_int guard_limit;
static pthread_mutex_t guard_lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_once_t guard_once = PTHREAD_ONCE_INIT;
static struct sigaction previous_action;

int guard_put_zeroes(uintptr_t base, size_t size)
{
    return syscall(SYS_mmap, base, size, PROT_READ | PROT_WRITE,
                   MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED | MAP_NORESERVE, -1, 0L) != -1;
}

void guard_tell(int event)
{
    uint64_t one = 1;
    // It fails only where the counter is full, and then the owner has been woken already.
    ssize_t ignored = write(event, &one, sizeof one);
    (void)ignored;
}

// Puts zeroes in the place of the guarded memory that holds `address`. The whole mapping goes at
// once: its owner is about to give it up, and single pages could be made to use up all mappings
// that a process may have. Windows do better (window.c).
static int replace_lost_memory(uintptr_t address)
{
    int limit = atomic_load_explicit(&guard_limit, memory_order_acquire);
    for (int i = 0; i < limit; i++) {
        uintptr_t base = atomic_load_explicit(&guards[i].base, memory_order_acquire);
        size_t size = atomic_load_explicit(&guards[i].size, memory_order_acquire);
        struct clinux_window *window = atomic_load_explicit(&guards[i].window, memory_order_acquire);
        if (base == 0 || address - base >= size ||
            atomic_load_explicit(&guards[i].base, memory_order_acquire) != base)
            continue;
        if (window != NULL)
            return clinux_window_mend(window, address);
        // Another thread may have been here first.
        if (atomic_load(&guards[i].is_lost))
            return 1;
        if (!guard_put_zeroes(base, size))
            return 0;
        atomic_store(&guards[i].is_lost, 1);
        guard_tell(atomic_load(&guards[i].event));
        return 1;
    }
    return 0;
}

// Runs on the thread that touched the memory, in the middle of any code: nothing here allocates, and
// the only lock is one whose owners touch no such memory (window.c).
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

static int add(void *base, size_t size, int event, struct clinux_window *window)
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
        atomic_store(&guards[i].window, window);
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
    return add(base, size, event, NULL);
}

int guard_add_window(void *base, size_t size, struct clinux_window *window)
{
    return add(base, size, -1, window);
}

void clinux_guard_remove(int guard)
{
    atomic_store(&guards[guard].base, 0);
}

int clinux_guard_is_lost(int guard)
{
    return atomic_load(&guards[guard].is_lost);
}
