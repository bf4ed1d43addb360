#define _GNU_SOURCE
#include "CLinux.h"

#include <fcntl.h>
#include <linux/close_range.h>
#include <linux/futex.h>
#include <linux/magic.h>
#include <linux/memfd.h>
#include <linux/mount.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <sys/vfs.h>
#include <sys/wait.h>
#include <termios.h>
#include <time.h>
#include <unistd.h>

enum { MAX_FDS = 64 };

int clinux_memfd_create(const char *name, unsigned huge_shift)
{
    unsigned flags = MFD_CLOEXEC | MFD_ALLOW_SEALING;
    if (huge_shift != 0)
        flags |= MFD_HUGETLB | (huge_shift << MFD_HUGE_SHIFT);
    int fd = memfd_create(name, flags);
    return fd < 0 ? -errno : fd;
}

void *clinux_map_again(void *memory, size_t size, int protection)
{
    void *view = mremap(memory, 0, size, MREMAP_MAYMOVE);
    if (view != MAP_FAILED && mprotect(view, size, protection) != 0) {
        int error = errno;
        munmap(view, size);
        errno = error;
        return MAP_FAILED;
    }
    return view;
}

ssize_t clinux_send_with_fds(int socket, const void *data, size_t length, const int *fds,
                             size_t count)
{
    if (count > MAX_FDS)
        return -EINVAL;
    struct iovec part = {.iov_base = (void *)data, .iov_len = length};
    union {
        struct cmsghdr header;
        char space[CMSG_SPACE(sizeof(int) * MAX_FDS)];
    } control;
    struct msghdr message = {.msg_iov = &part, .msg_iovlen = 1};
    if (count > 0) {
        memset(&control, 0, sizeof control);
        message.msg_control = &control;
        message.msg_controllen = CMSG_SPACE(sizeof(int) * count);
        struct cmsghdr *header = CMSG_FIRSTHDR(&message);
        header->cmsg_level = SOL_SOCKET;
        header->cmsg_type = SCM_RIGHTS;
        header->cmsg_len = CMSG_LEN(sizeof(int) * count);
        memcpy(CMSG_DATA(header), fds, sizeof(int) * count);
    }
    ssize_t sent;
    do
        sent = sendmsg(socket, &message, MSG_NOSIGNAL | MSG_DONTWAIT);
    while (sent < 0 && errno == EINTR);
    return sent < 0 ? -errno : sent;
}

ssize_t clinux_receive_with_fds(int socket, void *data, size_t length, int *fds, size_t *count,
                                int *truncated, int flags)
{
    size_t room = *count > MAX_FDS ? MAX_FDS : *count;
    struct iovec part = {.iov_base = data, .iov_len = length};
    union {
        struct cmsghdr header;
        char space[CMSG_SPACE(sizeof(int) * MAX_FDS)];
    } control;
    struct msghdr message = {.msg_iov = &part,
                             .msg_iovlen = 1,
                             .msg_control = &control,
                             .msg_controllen = sizeof control};
    *count = 0;
    *truncated = 0;
    ssize_t received;
    do
        received = recvmsg(socket, &message, MSG_CMSG_CLOEXEC | flags);
    while (received < 0 && errno == EINTR);
    if (received < 0)
        return -errno;
    *truncated = (message.msg_flags & MSG_CTRUNC) != 0;
    for (struct cmsghdr *header = CMSG_FIRSTHDR(&message); header != NULL;
         header = CMSG_NXTHDR(&message, header)) {
        if (header->cmsg_level != SOL_SOCKET || header->cmsg_type != SCM_RIGHTS)
            continue;
        size_t carried = (header->cmsg_len - CMSG_LEN(0)) / sizeof(int);
        for (size_t i = 0; i < carried; i++) {
            int fd;
            memcpy(&fd, CMSG_DATA(header) + i * sizeof(int), sizeof fd);
            if (*count < room) {
                fds[(*count)++] = fd;
            } else {
                close(fd);
                *truncated = 1;
            }
        }
    }
    return received;
}

int clinux_file_shape(int fd, uint64_t *alignment, int64_t *size)
{
    struct stat status;
    struct statfs system;
    if (fstat(fd, &status) < 0 || fstatfs(fd, &system) < 0)
        return -errno;
    *alignment = (uint64_t)sysconf(_SC_PAGESIZE);
    if (system.f_type == HUGETLBFS_MAGIC && (uint64_t)system.f_bsize > *alignment)
        *alignment = (uint64_t)system.f_bsize;
    *size = S_ISREG(status.st_mode) ? status.st_size : -1;
    return 0;
}

int64_t clinux_file_system(int fd)
{
    struct statfs system;
    return fstatfs(fd, &system) < 0 ? -errno : (int64_t)system.f_type;
}

int clinux_replace_fd(int source, int target)
{
    return dup3(source, target, O_CLOEXEC) < 0 ? -errno : 0;
}

static int unix_address(const char *path, struct sockaddr_un *address)
{
    memset(address, 0, sizeof *address);
    address->sun_family = AF_UNIX;
    if (strlen(path) >= sizeof address->sun_path)
        return -ENAMETOOLONG;
    strcpy(address->sun_path, path);
    return 0;
}

int clinux_unix_connect(int socket, const char *path)
{
    struct sockaddr_un address;
    int error = unix_address(path, &address);
    if (error != 0)
        return error;
    int result;
    do
        result = connect(socket, (struct sockaddr *)&address, sizeof address);
    while (result < 0 && errno == EINTR);
    return result < 0 ? -errno : 0;
}

int clinux_unix_bind(int socket, const char *path)
{
    struct sockaddr_un address;
    int error = unix_address(path, &address);
    if (error != 0)
        return error;
    return bind(socket, (struct sockaddr *)&address, sizeof address) < 0 ? -errno : 0;
}

int clinux_accept(int socket)
{
    int fd;
    do
        fd = accept4(socket, NULL, NULL, SOCK_CLOEXEC);
    while (fd < 0 && errno == EINTR);
    return fd < 0 ? -errno : fd;
}

int clinux_unix_pair(int fds[2])
{
    int type = SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK;
    return socketpair(AF_UNIX, type, 0, fds) < 0 ? -errno : 0;
}

int clinux_unix_socket(void)
{
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    return fd < 0 ? -errno : fd;
}

int clinux_listen(int socket, int backlog)
{
    return listen(socket, backlog) < 0 ? -errno : 0;
}

int clinux_is_listening(int socket)
{
    int value = 0;
    socklen_t size = sizeof value;
    if (getsockopt(socket, SOL_SOCKET, SO_ACCEPTCONN, &value, &size) < 0)
        return -errno;
    return value != 0;
}

int clinux_set_nonblocking(int fd)
{
    int flags = fcntl(fd, F_GETFL);
    if (flags < 0)
        return -errno;
    return fcntl(fd, F_SETFL, flags | O_NONBLOCK) < 0 ? -errno : 0;
}

int clinux_wait_semaphore(sem_t *semaphore, const struct timespec *end)
{
    return sem_clockwait(semaphore, CLOCK_MONOTONIC, end) < 0 ? -errno : 0;
}

int clinux_pipe(int fds[2])
{
    return pipe2(fds, O_CLOEXEC | O_NONBLOCK) < 0 ? -errno : 0;
}

int clinux_drain_event(int fd)
{
    uint64_t value;
    struct iovec part = {&value, sizeof value};
    ssize_t count = preadv2(fd, &part, 1, -1, RWF_NOWAIT);
    // Not every kernel and not every file can say that it would wait.
    if (count < 0 && (errno == EOPNOTSUPP || errno == ENOSYS))
        count = read(fd, &value, sizeof value);
    return count == sizeof value;
}

int clinux_poll_two(int first, short first_events, int second, short second_events,
                    int timeout_milliseconds)
{
    struct pollfd fds[2] = {{.fd = first, .events = first_events},
                            {.fd = second, .events = second_events}};
    struct timespec start, now;
    int left = timeout_milliseconds;
    clock_gettime(CLOCK_MONOTONIC, &start);
    while (poll(fds, 2, left) < 0) {
        if (errno != EINTR)
            return -errno;
        if (timeout_milliseconds < 0)
            continue;
        clock_gettime(CLOCK_MONOTONIC, &now);
        long long passed = (now.tv_sec - start.tv_sec) * 1000LL +
                           (now.tv_nsec - start.tv_nsec) / 1000000;
        left = passed < timeout_milliseconds ? (int)(timeout_milliseconds - passed) : 0;
    }
    return (fds[0].revents != 0) | (fds[1].revents != 0) << 1;
}

int clinux_signalfd(const int *signals, size_t count)
{
    sigset_t set;
    sigemptyset(&set);
    for (size_t i = 0; i < count; i++)
        if (sigaddset(&set, signals[i]) < 0)
            return -errno;
    int error = pthread_sigmask(SIG_BLOCK, &set, NULL);
    if (error != 0)
        return -error;
    int fd = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
    return fd < 0 ? -errno : fd;
}

int clinux_read_signal(int fd)
{
    struct signalfd_siginfo info;
    return read(fd, &info, sizeof info) == sizeof info ? (int)info.ssi_signo : 0;
}

int clinux_reap(int pidfd, int *exit_code, int *signal)
{
    siginfo_t info = {0};
    if (waitid(P_PIDFD, (id_t)pidfd, &info, WEXITED | WNOHANG) < 0)
        return -errno;
    if (info.si_pid == 0)
        return 0;
    *exit_code = info.si_code == CLD_EXITED ? info.si_status : 0;
    *signal = info.si_code == CLD_EXITED ? 0 : info.si_status;
    return 1;
}

int clinux_pidfd_signal(int pidfd, int signal)
{
    return syscall(SYS_pidfd_send_signal, pidfd, signal, NULL, 0) < 0 ? -errno : 0;
}

int clinux_fcntl(int fd, int command, long argument)
{
    int result;
    do
        result = fcntl(fd, command, argument);
    while (result < 0 && errno == EINTR);
    return result < 0 ? -errno : result;
}

int clinux_ioctl(int fd, unsigned long request, uintptr_t argument)
{
    int result;
    do
        result = ioctl(fd, request, argument);
    while (result < 0 && errno == EINTR);
    return result < 0 ? -errno : result;
}

int clinux_open_folder(const char *path)
{
    // A mount of its own has nothing above it. For it one needs a privilege.
    int fd = (int)syscall(SYS_open_tree, AT_FDCWD, path, OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC);
    if (fd < 0)
        fd = open(path, O_PATH | O_DIRECTORY | O_CLOEXEC);
    return fd < 0 ? -errno : fd;
}

int clinux_open(const char *path, int flags, unsigned mode)
{
    int fd;
    do
        fd = open(path, flags | O_CLOEXEC, mode);
    while (fd < 0 && errno == EINTR);
    return fd < 0 ? -errno : fd;
}

int clinux_set_parent_death_signal(int signal)
{
    return prctl(PR_SET_PDEATHSIG, signal) < 0 ? -errno : 0;
}

int clinux_set_thread_name(const char *name)
{
    return prctl(PR_SET_NAME, name) < 0 ? -errno : 0;
}

int clinux_open_terminal(int ends[2], unsigned char *path, size_t size)
{
    struct termios mode;
    ends[0] = posix_openpt(O_RDWR | O_NOCTTY | O_CLOEXEC);
    if (ends[0] < 0)
        return -errno;
    int code = -ptsname_r(ends[0], (char *)path, size);
    if (code == 0 && unlockpt(ends[0]) != 0)
        code = -errno;
    ends[1] = code == 0 ? open((char *)path, O_RDWR | O_NOCTTY | O_CLOEXEC) : -1;
    if (code == 0 && ends[1] < 0)
        code = -errno;
    if (code != 0) {
        close(ends[0]);
        return code;
    }
    if (tcgetattr(ends[1], &mode) == 0) {
        cfmakeraw(&mode);
        tcsetattr(ends[1], TCSANOW, &mode);
    }
    return 0;
}

ssize_t clinux_random(void *buffer, size_t length)
{
    ssize_t count = getrandom(buffer, length, 0);
    return count < 0 ? -errno : count;
}

int clinux_gettid(void)
{
    return (int)syscall(SYS_gettid);
}

long clinux_futex_wait(uint32_t *word, uint32_t expected, long long timeout_nanoseconds)
{
    struct timespec limit = {timeout_nanoseconds / 1000000000, timeout_nanoseconds % 1000000000};
    long result = syscall(SYS_futex, word, FUTEX_WAIT_PRIVATE, expected,
                          timeout_nanoseconds < 0 ? NULL : &limit, NULL, 0);
    return result < 0 ? -errno : result;
}

long clinux_futex_wake(uint32_t *word, int count)
{
    long result = syscall(SYS_futex, word, FUTEX_WAKE_PRIVATE, count, NULL, NULL, 0);
    return result < 0 ? -errno : result;
}

void clinux_close_all_but(const int *sorted, size_t count)
{
    int first = 3;
    for (size_t i = 0; i < count; i++) {
        if (sorted[i] > first)
            syscall(SYS_close_range, first, sorted[i] - 1, 0);
        if (sorted[i] >= first)
            first = sorted[i] + 1;
    }
    syscall(SYS_close_range, first, ~0U, 0);
}

enum { FIRST_FREE_FD = 256 };

// Puts the kept descriptors in their places and closes all others from 3 up, except `*report` (-1:
// none), which moves to the place above them and is close-on-exec. They leave each other's way
// first, so that any permutation works.
static int place_descriptors(const int *keep, const int *as, size_t count, int *report)
{
    int high[MAX_FDS];
    int top = 2;
    if (*report >= 0 && (*report = fcntl(*report, F_DUPFD_CLOEXEC, FIRST_FREE_FD)) < 0)
        return -1;
    for (size_t i = 0; i < count; i++) {
        high[i] = fcntl(keep[i], F_DUPFD, FIRST_FREE_FD);
        if (high[i] < 0)
            return -1;
    }
    for (size_t i = 0; i < count; i++) {
        if (dup2(high[i], as[i]) < 0)
            return -1;
        if (as[i] > top)
            top = as[i];
    }
    // What lies between the kept ones is closed one by one, the rest at once.
    for (int fd = 3; fd <= top; fd++) {
        int wanted = 0;
        for (size_t i = 0; i < count; i++)
            wanted |= as[i] == fd;
        if (!wanted)
            close(fd);
    }
    if (*report >= 0) {
        if (dup3(*report, ++top, O_CLOEXEC) < 0)
            return -1;
        *report = top;
    }
    syscall(SYS_close_range, top + 1, ~0U, 0);
    return 0;
}

static void accept_signals(void)
{
    sigset_t none;
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL);
    signal(SIGPIPE, SIG_DFL);
}

// fork(2) without what the C library does for threads. The pidfd is close-on-exec.
static pid_t fork_process(unsigned long flags, int *pidfd)
{
    return (pid_t)syscall(SYS_clone, flags | CLONE_PIDFD | SIGCHLD, NULL, pidfd, NULL, 0UL);
}

static void become(const struct clinux_program *program, const int *keep, const int *as,
                   size_t count, int report)
{
    if (place_descriptors(keep, as, count, &report) == 0) {
        accept_signals();
        execve(program->path, program->arguments, program->environment);
    }
    int error = errno;
    if (write(report, &error, sizeof error) < 0)
        _exit(126);
    _exit(127);
}

int clinux_spawn(const struct clinux_program *program, const int *keep, const int *as,
                 size_t keep_count, int *pidfd)
{
    *pidfd = -1;
    if (keep_count > MAX_FDS)
        return -EINVAL;
    pid_t parent = getpid();
    int status[2];
    if (pipe2(status, O_CLOEXEC) < 0)
        return -errno;
    pid_t child = fork_process(0, pidfd);
    if (child < 0) {
        int error = errno;
        close(status[0]);
        close(status[1]);
        return -error;
    }
    if (child == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        if (getppid() != parent)
            _exit(127);
        become(program, keep, as, keep_count, status[1]);
    }
    close(status[1]);
    int error = 0;
    ssize_t got;
    do
        got = read(status[0], &error, sizeof error);
    while (got < 0 && errno == EINTR);
    close(status[0]);
    if (got != (ssize_t)sizeof error)
        return child;
    // Nobody is told the number of a child that could not become what it was to be.
    while (waitpid(child, NULL, 0) < 0 && errno == EINTR)
        ;
    close(*pidfd);
    *pidfd = -1;
    return -error;
}

int clinux_fork_sibling(enum clinux_rights rights, const int *keep, const int *as,
                        size_t keep_count, int *pidfd)
{
    *pidfd = -1;
    if (keep_count > MAX_FDS)
        return -EINVAL;
    pid_t child = -1;
    // Children in a process namespace of their own, where that is allowed, cannot see, and so cannot
    // signal, anything but themselves.
    if (rights == CLINUX_LESS_RIGHTS)
        child = fork_process(CLONE_PARENT | CLONE_NEWUSER | CLONE_NEWPID, pidfd);
    if (child < 0)
        child = fork_process(CLONE_PARENT, pidfd);
    if (child != 0)
        return child < 0 ? -errno : child;
    if (rights == CLINUX_LESS_RIGHTS)
        clinux_limit_bounding_set(0); // changes nothing unless there is a new user namespace
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    int report = -1;
    if (place_descriptors(keep, as, keep_count, &report) < 0)
        _exit(126);
    accept_signals();
    clearenv();
    return 0;
}
