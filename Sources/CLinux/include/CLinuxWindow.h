// Windows of shared memory (SharedWindow.swift): guarded memory that consists of many mappings, which
// change while others use it. Pages behind which there is nothing are mended one by one.
#ifndef CLINUX_WINDOW_H
#define CLINUX_WINDOW_H

#include <stddef.h>
#include <stdint.h>

#pragma clang assume_nonnull begin

struct clinux_window;

// Guards `size` bytes from `base`, which is one empty mapping and a multiple of 2 MiB from 0; `event`,
// an eventfd, is signalled when pages were mended. `*left` says how many mappings more all windows
// that share it may take; it lives as long as they do. NULL if there is no room for another.
struct clinux_window *_Nullable clinux_window_add(void *base, size_t size, int event, int *left);

// Ends a window that nobody uses any more, and gives its mappings back; its memory is unmapped after
// that.
void clinux_window_remove(struct clinux_window *window);

// Maps a file, or memory if `fd` is -1, for reading and writing, in the place of what is mapped in a
// range of the window. `mappings` is how many mappings the window consists of then, if no page is
// mended. Returns 0 or -errno; -EDQUOT: there are not that many left. What was there stays then, or
// there is zeroed memory; never nothing, into which the process's next mapping could go.
int clinux_window_map(struct clinux_window *window, size_t offset, size_t size, int flags, int fd,
                      int64_t file_offset, int mappings);

// How many single pages, and how many pieces of 2 MiB, have been mended and not mapped since.
void clinux_window_mended(struct clinux_window *window, int *pages, int *blocks);

// What is left of an account of mappings.
int clinux_windows_left(const int *left);

// Writes to an address in a window without changing what is there, so that a page which would fail is
// mended. Returns whether this thread has mended one.
int clinux_window_touch(void *address);

// For the handler of SIGBUS: mends the page that holds an address of the window. Returns 1 if the
// access is to be repeated, 0 if nothing can be done.
int clinux_window_mend(struct clinux_window *window, uintptr_t address);

#pragma clang assume_nonnull end

#endif
