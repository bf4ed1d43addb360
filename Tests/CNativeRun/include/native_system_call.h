// A system call by its number, which Swift cannot make: syscall(2) is variadic.
#ifndef NATIVE_SYSTEM_CALL_H
#define NATIVE_SYSTEM_CALL_H

// Makes it with zeroes as arguments. Returns its result, or -errno.
long native_system_call(long number);

// Keeps this thread, and those that it makes, on one host CPU. Returns 0, or -errno.
int native_stay_on_one_cpu(void);

// ioctl(2) on a descriptor that is not open. Returns -EBADF, if it is let through.
long native_ioctl(unsigned long request);

#endif
