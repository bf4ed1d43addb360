// The part of Linux that Swift's own import does not reach: macros, variadic functions and
// everything behind _GNU_SOURCE. Values keep their names with a CLINUX_ prefix; wrappers return
// -errno on failure.
#ifndef CLINUX_H
#define CLINUX_H

#include <errno.h>
#include <semaphore.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <sys/uio.h>

#include "CLinuxBlock.h"
#include "CLinuxFiles.h"
#include "CLinuxGuard.h"
#include "CLinuxKVM.h"
#include "CLinuxKeeper.h"
#include "CLinuxNetwork.h"
#include "CLinuxSandbox.h"
#include "CLinuxUserfault.h"
#include "CLinuxWindow.h"

#pragma clang assume_nonnull begin

static const int CLINUX_F_ADD_SEALS = 1033;
static const int CLINUX_F_SEAL_SHRINK = 0x0002;
static const int CLINUX_F_SEAL_GROW = 0x0004;

// Creates an anonymous memory file (memfd_create, always close-on-exec and sealable).
// huge_shift: 0, or the logarithm of a huge page size (21, 30).
int clinux_memfd_create(const char *name, unsigned huge_shift);

// Maps the pages of a whole shared mapping a second time. MAP_FAILED and errno where that fails.
void *clinux_map_again(void *memory, size_t size, int protection);

// Sends `length` bytes and `count` descriptors (at most 64) in one message. SIGPIPE is not raised,
// and nothing waits, also where a peer that shares the socket has made it blocking.
ssize_t clinux_send_with_fds(int socket, const void *data, size_t length,
                             const int *_Nullable fds, size_t count);

// Receives up to `length` bytes and `*count` descriptors (at most 64), which are close-on-exec.
// On return `*count` is how many came; *truncated says that the kernel dropped some.
ssize_t clinux_receive_with_fds(int socket, void *data, size_t length, int *fds, size_t *count,
                                int *truncated, int flags);

// What mappings of the file must be aligned to (the page size, or that of huge pages), and the
// file's size; -1 as size where that says nothing (devices).
int clinux_file_shape(int fd, uint64_t *alignment, int64_t *size);

// What statfs(2) calls the file system that a file lies on, or -errno.
int64_t clinux_file_system(int fd);

// Makes the descriptor `target` refer to what `source` does, at once and close-on-exec.
int clinux_replace_fd(int source, int target);

// Binds and connects Unix sockets by path. -ENAMETOOLONG where the path does not fit.
int clinux_unix_connect(int socket, const char *path);
int clinux_unix_bind(int socket, const char *path);

int clinux_accept(int socket);

// For loops that wait for another CPU's store: lets the other thread of the core go first.
static inline void clinux_pause(void)
{
    __builtin_ia32_pause();
}

// Has the processor fetch the line of memory at an address, which need not be one: it is about to be
// read, or to be written. What other processors wait for meanwhile takes its time as before.
static inline void clinux_prefetch(const void *address)
{
    __builtin_prefetch(address, 0, 3);
}

// PREFETCHW does nothing on processors that do not have it; the compiler would not use it there.
static inline void clinux_prefetch_write(const void *address)
{
    __asm__ volatile("prefetchw %0" : : "m"(*(const char *)address));
}

// The first 64 CPUs, as a mask, of those that the calling thread may use; 0 on failure.
uint64_t clinux_allowed_cpus(void);
int clinux_allow_cpus(uint64_t mask);

// A connected pair of stream sockets, or an unbound one; close-on-exec and non-blocking.
int clinux_unix_pair(int fds[_Nonnull 2]);
int clinux_unix_socket(void);
int clinux_listen(int socket, int backlog);
// 1 if the socket listens, 0 if not.
int clinux_is_listening(int socket);
// Makes reads and writes return -EAGAIN instead of waiting.
int clinux_set_nonblocking(int fd);

// Takes the value of an eventfd, without waiting even if it is blocking. Returns whether there was one.
int clinux_drain_event(int fd);
// A pipe, whose ends are close-on-exec and non-blocking: what is read from, and what is written to.
int clinux_pipe(int fds[_Nonnull 2]);
// Waits for `events` on one or two descriptors (-1: none); a negative timeout waits for ever, and
// signals cut nothing short. Returns 0 after the timeout, else bit 0 and bit 1 for the descriptors
// that have something.
int clinux_poll_two(int first, short first_events, int second, short second_events,
                    int timeout_milliseconds);

// Waits for a semaphore until CLOCK_MONOTONIC says so; 0, -ETIMEDOUT or -EINTR.
int clinux_wait_semaphore(sem_t *semaphore, const struct timespec *end);

// Blocks `signals` in this thread and returns a descriptor (close-on-exec, non-blocking) that
// reports them.
int clinux_signalfd(const int *signals, size_t count);
// The next signal's number from such a descriptor, or 0.
int clinux_read_signal(int fd);

// Takes the status of an ended child: 1 and how it ended, 0 if it still runs. *signal is 0 unless
// a signal ended it.
int clinux_reap(int pidfd, int *exit_code, int *signal);
int clinux_pidfd_signal(int pidfd, int signal);
int clinux_fcntl(int fd, int command, long argument);
int clinux_ioctl(int fd, unsigned long request, uintptr_t argument);
int clinux_open(const char *path, int flags, unsigned mode);
// Opens a folder to name what is in it, not to read it. Where the host allows it, '..' does not
// lead out of it.
int clinux_open_folder(const char *path);

// Asks the kernel to send `signal` to this process when its parent ends.
int clinux_set_parent_death_signal(int signal);
int clinux_set_thread_name(const char *name);
int clinux_gettid(void);
// Makes a pseudo terminal in raw mode: opens both ends (close-on-exec) and gives the other's path.
int clinux_open_terminal(int ends[_Nonnull 2], unsigned char *path, size_t size);
// Fills a buffer with random bytes (getrandom(2)), at most 256 of them without interruption.
ssize_t clinux_random(void *buffer, size_t length);
long clinux_futex_wait(uint32_t *word, uint32_t expected, long long timeout_nanoseconds);
long clinux_futex_wake(uint32_t *word, int count);

struct clinux_program {
    const char *path;
    char *const _Nullable *_Nonnull arguments;
    char *const _Nullable *_Nonnull environment;
};

// Starts a program; descriptors in `keep` (count `keep_count`) arrive in the new process under the
// numbers in `as`; every other descriptor from 3 up is closed. The process gets SIGKILL when its
// parent ends, and an empty signal mask. Returns the process id, and a descriptor for it in
// *pidfd; -1 there goes with an error.
int clinux_spawn(const struct clinux_program *program, const int *_Nullable keep,
                 const int *_Nullable as, size_t keep_count, int *pidfd);

enum clinux_rights {
    CLINUX_SAME_RIGHTS,
    CLINUX_LESS_RIGHTS, // in user and process namespaces of its own, where that is allowed
};

// Copies this process, which must have one thread, as a child of its parent. Returns 0 in the copy,
// whose descriptors and signals are as with `clinux_spawn`, and which has no environment.
int clinux_fork_sibling(enum clinux_rights rights, const int *_Nullable keep,
                        const int *_Nullable as, size_t keep_count, int *pidfd);

// Closes all descriptors from 3 up but those in `sorted`.
void clinux_close_all_but(const int *sorted, size_t count);

// Gives back free pages of the heap.
void clinux_trim_heap(void);

// Gives back what only the start of a process needs: free pages of the heap, what the first
// thread's stack has grown by (if it calls), and the executable's code and constants, which are
// read from its file again, in memory as a rule, where they are used.
void clinux_release_startup_memory(void);

// CPUID of the processor that we run on: EAX, EBX, ECX, EDX.
static inline void clinux_cpuid(uint32_t leaf, uint32_t subleaf, uint32_t *words)
{
    __asm__ volatile("cpuid"
                     : "=a"(words[0]), "=b"(words[1]), "=c"(words[2]), "=d"(words[3])
                     : "a"(leaf), "c"(subleaf));
}

// LOCK CMPXCHG16B on 16 aligned bytes: true if they were *low and *high and are now the new ones,
// else *low and *high are what was found.
static inline _Bool clinux_compare_exchange_16(
    void *place, uint64_t *low, uint64_t *high, uint64_t new_low, uint64_t new_high)
{
    _Bool equal;
    __asm__ volatile("lock cmpxchg16b %1"
                     : "=@ccz"(equal), "+m"(*(char(*)[16])place), "+a"(*low), "+d"(*high)
                     : "b"(new_low), "c"(new_high)
                     : "memory");
    return equal;
}

#pragma clang assume_nonnull end

#endif
