#define _GNU_SOURCE
#include "CLinux.h"

#include <fcntl.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

// The keeper has a copy of its parent's memory, in which locks may be held: it makes system calls
// and nothing else.

// One bit for each number of a descriptor; the program's limit of them is lower.
enum { LIMIT = 1 << 21 };

struct keeper {
    struct clinux_ledger *ledger;
    unsigned column;
    int socket;
    int owner; // a pidfd
};

static void mark(uint8_t *set, const struct clinux_kept *kept, unsigned column)
{
    uint64_t state = atomic_load_explicit((const _Atomic uint64_t *)&kept->state,
                                          memory_order_acquire);
    int number = kept->numbers[column];
    if ((state & 1) != 0 && number >= 0 && number < LIMIT)
        set[number / 8] |= (uint8_t)(1 << number % 8);
}

static void close_all_but_kept(const struct keeper *keeper)
{
    struct clinux_ledger *ledger = keeper->ledger;
    uint8_t *set = mmap(NULL, LIMIT / 8, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (set == MAP_FAILED)
        return;
    for (unsigned i = 0; i < ledger->node_slots && i < CLINUX_LEDGER_NODES; i++)
        mark(set, &clinux_ledger_nodes(ledger)[i].kept, keeper->column);
    for (unsigned i = 0; i < ledger->handle_slots && i < CLINUX_LEDGER_HANDLES; i++)
        mark(set, &clinux_ledger_handles(ledger)[i].kept, keeper->column);
    set[keeper->socket / 8] |= (uint8_t)(1 << keeper->socket % 8);
    unsigned first = 0;
    for (unsigned number = 0; number < LIMIT; number++) {
        if (set[number / 8] == 0 && number % 8 == 0) {
            number += 7;
            continue;
        }
        if ((set[number / 8] & 1 << number % 8) == 0)
            continue;
        if (number > first)
            syscall(SYS_close_range, first, number - 1, 0);
        first = number + 1;
    }
    syscall(SYS_close_range, first, ~0U, 0);
    munmap(set, LIMIT / 8);
}

// Returns whether the keeper is to go on.
static int answer(const struct keeper *keeper)
{
    struct {
        uint32_t count;
        int numbers[CLINUX_KEEPER_BATCH];
    } request;
    ssize_t length = read(keeper->socket, &request, sizeof request);
    if (length < 0)
        return errno == EAGAIN || errno == EINTR;
    if ((size_t)length != sizeof request || request.count == 0 ||
        request.count > CLINUX_KEEPER_BATCH)
        return 0;
    // A number that stands for nothing: the answer comes without descriptors.
    uint8_t byte = 0;
    if (clinux_send_with_fds(keeper->socket, &byte, 1, request.numbers, request.count) < 0)
        return clinux_send_with_fds(keeper->socket, &byte, 1, NULL, 0) == 1;
    return 1;
}

_Noreturn static void keep(const struct keeper *keeper)
{
    static const char name[] = "apus-keeper";
    prctl(PR_SET_NAME, name);
    clinux_set_command_line(name, sizeof name - 1);
    struct pollfd waits[2] = {{keeper->socket, POLLIN, 0}, {keeper->owner, POLLIN, 0}};
    for (;;) {
        if (poll(waits, 2, -1) < 0)
            continue;
        // Somebody newer may have the place.
        if (keeper->ledger->keepers[keeper->column] != getpid())
            _exit(0);
        if (waits[1].revents != 0) {
            if (keeper->ledger->column != keeper->column)
                _exit(0);
            close_all_but_kept(keeper);
            waits[1].fd = -1;
            continue;
        }
        if (waits[0].revents != 0 && !answer(keeper))
            _exit(0);
    }
}

int clinux_keeper_start(struct clinux_ledger *ledger, unsigned column, int socket, int *pidfd)
{
    struct keeper keeper = {ledger, column, socket, (int)syscall(SYS_pidfd_open, getpid(), 0)};
    if (keeper.owner < 0)
        return -errno;
    long process = syscall(SYS_clone, CLONE_FILES | CLONE_PIDFD | SIGCHLD, 0, pidfd, 0, 0);
    if (process == 0)
        keep(&keeper);
    if (process < 0) {
        int error = -errno;
        close(keeper.owner);
        return error;
    }
    // The keeper's descriptors are this process's: `owner` stays open.
    return (int)process;
}
