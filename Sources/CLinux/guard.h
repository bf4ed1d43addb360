// What guards and windows share (guard.c, window.c).
#ifndef GUARD_H
#define GUARD_H

#include <stddef.h>
#include <stdint.h>

struct clinux_window;

// As clinux_guard_add, for a window, which mends its pages itself.
int guard_add_window(void *base, size_t size, struct clinux_window *window);

// Maps private zeroes over memory of ours. Returns whether that was possible.
int guard_put_zeroes(uintptr_t base, size_t size);

// Signals an eventfd.
void guard_tell(int event);

#endif
