#define _GNU_SOURCE
#include "CLinux.h"

#include <errno.h>
#include <linux/futex.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "guard.h"

// A page behind which there is nothing is a fault, and its handler puts a page of zeroes there. Three
// things make that more than one call:
//
// - Meanwhile something else may be mapped there by another thread, which must stay. All changes are
//   made under one lock and counted. A thread mends only if nothing has changed since it looked at the
//   count, which was before its fault; otherwise it looks, and repeats the access. So its first fault
//   after a change costs another one.
// - Each page that is mended splits a mapping, of which a process has so many and no more. The windows
//   share an account, and a window mends so many single pages only. After that 2 MiB go at once, which
//   gives single pages back. The whole window goes only where the account is empty.
// - What is mapped over mended pages gives them back.
//
// The lock is taken by the handler too. That is safe because whoever holds it touches no window.

enum { PAGE_BITS = 12, BLOCK_BITS = 21, SINGLES = 512, MAPPINGS_OF_MENDED = 2 };

struct clinux_window {
    uintptr_t base;
    size_t size;
    int event;
    int guard;
    // The rest belongs to whoever has the lock.
    int *left;
    int mappings;
    int single_count;
    int block_count;
    uint32_t singles[SINGLES]; // by number, in no order
    uint8_t blocks[];          // for each, whether it was mended as a whole
};

static atomic_int window_lock; // 0: free, 1: taken, 2: others may wait
static uint64_t changes = 1;

// What this thread has seen of `changes`, and how often it has mended something.
static _Thread_local uint64_t seen_changes;
static _Thread_local volatile unsigned mended_count;

static void lock(void)
{
    int free = 0;
    if (atomic_compare_exchange_strong_explicit(&window_lock, &free, 1, memory_order_acquire,
                                                memory_order_relaxed))
        return;
    while (atomic_exchange_explicit(&window_lock, 2, memory_order_acquire) != 0)
        syscall(SYS_futex, &window_lock, FUTEX_WAIT_PRIVATE, 2, NULL, NULL, 0);
}

static void unlock(void)
{
    if (atomic_exchange_explicit(&window_lock, 0, memory_order_release) == 2)
        syscall(SYS_futex, &window_lock, FUTEX_WAKE_PRIVATE, 1, NULL, NULL, 0);
}

static size_t block_count(size_t size)
{
    return (size >> BLOCK_BITS) + ((size & ((1u << BLOCK_BITS) - 1)) != 0);
}

struct clinux_window *clinux_window_add(void *base, size_t size, int event, int *left)
{
    struct clinux_window *window = calloc(1, sizeof *window + block_count(size));
    if (window == NULL)
        return NULL;
    window->base = (uintptr_t)base;
    window->size = size;
    window->event = event;
    window->left = left;
    window->mappings = 1;
    lock();
    int fits = *left > 0;
    *left -= fits;
    unlock();
    window->guard = fits ? guard_add_window(base, size, window) : -1;
    if (window->guard >= 0)
        return window;
    lock();
    *left += fits;
    unlock();
    free(window);
    return NULL;
}

// The pages and blocks of a range are not mended any more, or with a larger part.
static void forget_mended(struct clinux_window *window, size_t offset, size_t size)
{
    size_t end = offset + size;
    int kept = 0;
    for (int i = 0; i < window->single_count; i++) {
        size_t page = (size_t)window->singles[i] << PAGE_BITS;
        if (page < offset || page >= end)
            window->singles[kept++] = window->singles[i];
    }
    int forgotten = window->single_count - kept;
    window->single_count = kept;
    if (window->block_count > 0) {
        // Those that are in the range as a whole, which at the window's end may be less than 2 MiB.
        size_t first = block_count(offset);
        size_t last = end == window->size ? block_count(end) : end >> BLOCK_BITS;
        for (size_t i = first; i < last; i++) {
            forgotten += window->blocks[i];
            window->block_count -= window->blocks[i];
            window->blocks[i] = 0;
        }
    }
    *window->left += forgotten * MAPPINGS_OF_MENDED;
}

void clinux_window_remove(struct clinux_window *window)
{
    clinux_guard_remove(window->guard);
    lock();
    forget_mended(window, 0, window->size);
    *window->left += window->mappings;
    unlock();
    free(window);
}

// Takes as many mappings from the account as the window has more then.
static int take_mappings(struct clinux_window *window, int mappings)
{
    lock();
    int more = mappings - window->mappings;
    int fits = more <= 0 || more <= *window->left;
    if (fits && more > 0) {
        *window->left -= more;
        window->mappings = mappings;
    }
    unlock();
    return fits;
}

static void set_mappings(struct clinux_window *window, int mappings)
{
    *window->left += window->mappings - mappings;
    window->mappings = mappings;
}

int clinux_window_map(struct clinux_window *window, size_t offset, size_t size, int flags, int fd,
                      int64_t file_offset, int mappings)
{
    int before = window->mappings;
    if (!take_mappings(window, mappings))
        return -EDQUOT;
    // Linux takes away what was there before it asks the file, which may refuse: so the file is
    // mapped elsewhere first, and moved. That may take long, and is done without the lock.
    int code = 0;
    void *new = mmap(NULL, size, PROT_READ | PROT_WRITE, flags, fd, file_offset);
    if (new == MAP_FAILED)
        code = errno;
    lock();
    if (code == 0) {
        void *place = (void *)(window->base + offset);
        if (mremap(new, size, size, MREMAP_MAYMOVE | MREMAP_FIXED, place) == MAP_FAILED) {
            code = errno;
            if (!guard_put_zeroes(window->base + offset, size))
                abort();
            munmap(new, size);
        }
        forget_mended(window, offset, size);
        changes++;
    }
    set_mappings(window, code == 0 ? mappings : before);
    unlock();
    return -code;
}

void clinux_window_mended(struct clinux_window *window, int *pages, int *blocks)
{
    lock();
    *pages = window->single_count;
    *blocks = window->block_count;
    unlock();
}

int clinux_windows_left(const int *left)
{
    lock();
    int result = *left;
    unlock();
    return result;
}

// Puts zeroes in the place of a page, or of more where there are too many of such.
static int replace(struct clinux_window *window, uintptr_t address)
{
    size_t page = (address - window->base) >> PAGE_BITS;
    size_t block = page >> (BLOCK_BITS - PAGE_BITS);
    size_t start = block << BLOCK_BITS;
    size_t size = window->size - start < 1u << BLOCK_BITS ? window->size - start : 1u << BLOCK_BITS;
    int has_room = *window->left >= MAPPINGS_OF_MENDED;
    if (has_room && window->single_count < SINGLES) {
        if (!guard_put_zeroes(window->base + (page << PAGE_BITS), 1u << PAGE_BITS))
            return 0;
        window->singles[window->single_count++] = (uint32_t)page;
        *window->left -= MAPPINGS_OF_MENDED;
        return 1;
    }
    if (has_room || window->blocks[block]) {
        if (!guard_put_zeroes(window->base + start, size))
            return 0;
        forget_mended(window, start, size);
        window->blocks[block] = 1;
        window->block_count++;
        *window->left -= MAPPINGS_OF_MENDED;
        return 1;
    }
    if (!guard_put_zeroes(window->base, window->size))
        return 0;
    forget_mended(window, 0, window->size);
    return 1;
}

int clinux_window_mend(struct clinux_window *window, uintptr_t address)
{
    lock();
    if (seen_changes != changes) {
        seen_changes = changes;
        unlock();
        return 1;
    }
    int is_mended = replace(window, address);
    seen_changes = ++changes;
    unlock();
    if (is_mended) {
        mended_count++;
        guard_tell(window->event);
    }
    return is_mended;
}

int clinux_window_touch(void *address)
{
    unsigned before = mended_count;
    // An access that changes nothing, and that no compiler makes a read.
    __asm__ volatile("lock orb $0, (%0)" : : "r"(address) : "memory", "cc");
    return mended_count != before;
}
