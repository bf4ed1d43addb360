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

// Ends a guard; to be called before its memory is unmapped and its event is closed.
void clinux_guard_remove(int guard);

// Whether the memory behind a guard was lost.
int clinux_guard_is_lost(int guard);

#pragma clang assume_nonnull end

#endif
