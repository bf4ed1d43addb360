// Memory that another process shares and may take away: when its file gets shorter than the
// mapping, an access is answered with SIGBUS, which would end this process. A guarded mapping is
// replaced by private zeroes instead, and its owner is told.
#ifndef CLINUX_GUARD_H
#define CLINUX_GUARD_H

#include <stddef.h>

#pragma clang assume_nonnull begin

// Guards `size` bytes from `base`, a mapping as a whole; from then on `event`, an eventfd, is
// signalled when its file fails it. The first call installs the handler of SIGBUS; a fault outside
// all guards ends the process as before. Returns the guard's number, or -ENOSPC.
int clinux_guard_add(void *base, size_t size, int event);

// The same for memory that consists of many mappings, which change (SharedWindow.swift): single pages
// are replaced, `pages` at most, and then everything.
int clinux_guard_add_pages(void *base, size_t size, int event, int pages);

// Lets a guard of that kind replace so many pages again.
void clinux_guard_renew(int guard, int pages);

// Maps a file, or memory if `fd` is -1, for reading and writing, in the place of what is mapped at
// `base`. If that fails, what was there stays, or there is zeroed memory; never nothing, into which the
// process's next mapping could go. Returns 0 or -errno.
int clinux_map_over(void *base, size_t size, int flags, int fd, int64_t offset);

// Writes to an address without changing what is there, so that memory which would fail is replaced.
void clinux_guard_touch(void *address);

// Ends a guard; to be called before its memory is unmapped and its event is closed.
void clinux_guard_remove(int guard);

// Whether the memory behind a guard was lost.
int clinux_guard_is_lost(int guard);

#pragma clang assume_nonnull end

#endif
