// Page faults that somebody else resolves: userfaultfd(2).
#ifndef CLINUX_USERFAULT_H
#define CLINUX_USERFAULT_H

#include <stdint.h>

#pragma clang assume_nonnull begin

// The ioctl requests that these functions make, for filters.
#define CLINUX_USERFAULT_REQUESTS 4
extern const uint32_t clinux_userfault_requests[CLINUX_USERFAULT_REQUESTS];

// A descriptor for faults of this process, close-on-exec and non-blocking, made by the open device
// /dev/userfaultfd; or -errno.
int clinux_userfault_make(int device);

// From now on whoever touches a page of the range that is not there waits until it is, and the
// descriptor says so. Bounds are multiples of the page size.
int clinux_userfault_register(int fd, uintptr_t start, uint64_t length);

// Lets faults of the range, also those that wait, go on as always.
int clinux_userfault_unregister(int fd, uintptr_t start, uint64_t length);

// The address of the next fault, 0 if there is none; or -errno.
int clinux_userfault_next(int fd, uint64_t *address);

// Lets those go on who wait in the range.
int clinux_userfault_wake(int fd, uintptr_t start, uint64_t length);

#pragma clang assume_nonnull end

#endif
