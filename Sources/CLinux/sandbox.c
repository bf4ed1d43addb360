#define _GNU_SOURCE
#include "CLinuxSandbox.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/capability.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <malloc.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

// MARK: Seccomp

// The names in the order of their numbers, one after the other: no pointers, so nothing has to be
// relocated in every process.
static const char first_names[] =
    "read\0write\0open\0close\0stat\0fstat\0lstat\0poll\0lseek\0mmap\0mprotect\0munmap\0brk\0"
    "rt_sigaction\0rt_sigprocmask\0rt_sigreturn\0ioctl\0pread64\0pwrite64\0readv\0writev\0access\0"
    "pipe\0select\0sched_yield\0mremap\0msync\0mincore\0madvise\0shmget\0shmat\0shmctl\0dup\0"
    "dup2\0pause\0nanosleep\0getitimer\0alarm\0setitimer\0getpid\0sendfile\0socket\0connect\0"
    "accept\0sendto\0recvfrom\0sendmsg\0recvmsg\0shutdown\0bind\0listen\0getsockname\0"
    "getpeername\0socketpair\0setsockopt\0getsockopt\0clone\0fork\0vfork\0execve\0exit\0wait4\0"
    "kill\0uname\0semget\0semop\0semctl\0shmdt\0msgget\0msgsnd\0msgrcv\0msgctl\0fcntl\0flock\0"
    "fsync\0fdatasync\0truncate\0ftruncate\0getdents\0getcwd\0chdir\0fchdir\0rename\0mkdir\0"
    "rmdir\0creat\0link\0unlink\0symlink\0readlink\0chmod\0fchmod\0chown\0fchown\0lchown\0umask\0"
    "gettimeofday\0getrlimit\0getrusage\0sysinfo\0times\0ptrace\0getuid\0syslog\0getgid\0setuid\0"
    "setgid\0geteuid\0getegid\0setpgid\0getppid\0getpgrp\0setsid\0setreuid\0setregid\0getgroups\0"
    "setgroups\0setresuid\0getresuid\0setresgid\0getresgid\0getpgid\0setfsuid\0setfsgid\0getsid\0"
    "capget\0capset\0rt_sigpending\0rt_sigtimedwait\0rt_sigqueueinfo\0rt_sigsuspend\0sigaltstack\0"
    "utime\0mknod\0uselib\0personality\0ustat\0statfs\0fstatfs\0sysfs\0getpriority\0setpriority\0"
    "sched_setparam\0sched_getparam\0sched_setscheduler\0sched_getscheduler\0"
    "sched_get_priority_max\0sched_get_priority_min\0sched_rr_get_interval\0mlock\0munlock\0"
    "mlockall\0munlockall\0vhangup\0modify_ldt\0pivot_root\0_sysctl\0prctl\0arch_prctl\0adjtimex\0"
    "setrlimit\0chroot\0sync\0acct\0settimeofday\0mount\0umount2\0swapon\0swapoff\0reboot\0"
    "sethostname\0setdomainname\0iopl\0ioperm\0create_module\0init_module\0delete_module\0"
    "get_kernel_syms\0query_module\0quotactl\0nfsservctl\0getpmsg\0putpmsg\0afs_syscall\0tuxcall\0"
    "security\0gettid\0readahead\0setxattr\0lsetxattr\0fsetxattr\0getxattr\0lgetxattr\0fgetxattr\0"
    "listxattr\0llistxattr\0flistxattr\0removexattr\0lremovexattr\0fremovexattr\0tkill\0time\0"
    "futex\0sched_setaffinity\0sched_getaffinity\0set_thread_area\0io_setup\0io_destroy\0"
    "io_getevents\0io_submit\0io_cancel\0get_thread_area\0lookup_dcookie\0epoll_create\0"
    "epoll_ctl_old\0epoll_wait_old\0remap_file_pages\0getdents64\0set_tid_address\0"
    "restart_syscall\0semtimedop\0fadvise64\0timer_create\0timer_settime\0timer_gettime\0"
    "timer_getoverrun\0timer_delete\0clock_settime\0clock_gettime\0clock_getres\0clock_nanosleep\0"
    "exit_group\0epoll_wait\0epoll_ctl\0tgkill\0utimes\0vserver\0mbind\0set_mempolicy\0"
    "get_mempolicy\0mq_open\0mq_unlink\0mq_timedsend\0mq_timedreceive\0mq_notify\0mq_getsetattr\0"
    "kexec_load\0waitid\0add_key\0request_key\0keyctl\0ioprio_set\0ioprio_get\0inotify_init\0"
    "inotify_add_watch\0inotify_rm_watch\0migrate_pages\0openat\0mkdirat\0mknodat\0fchownat\0"
    "futimesat\0newfstatat\0unlinkat\0renameat\0linkat\0symlinkat\0readlinkat\0fchmodat\0"
    "faccessat\0pselect6\0ppoll\0unshare\0set_robust_list\0get_robust_list\0splice\0tee\0"
    "sync_file_range\0vmsplice\0move_pages\0utimensat\0epoll_pwait\0signalfd\0timerfd_create\0"
    "eventfd\0fallocate\0timerfd_settime\0timerfd_gettime\0accept4\0signalfd4\0eventfd2\0"
    "epoll_create1\0dup3\0pipe2\0inotify_init1\0preadv\0pwritev\0rt_tgsigqueueinfo\0"
    "perf_event_open\0recvmmsg\0fanotify_init\0fanotify_mark\0prlimit64\0name_to_handle_at\0"
    "open_by_handle_at\0clock_adjtime\0syncfs\0sendmmsg\0setns\0getcpu\0process_vm_readv\0"
    "process_vm_writev\0kcmp\0finit_module\0sched_setattr\0sched_getattr\0renameat2\0seccomp\0"
    "getrandom\0memfd_create\0kexec_file_load\0bpf\0execveat\0userfaultfd\0membarrier\0mlock2\0"
    "copy_file_range\0preadv2\0pwritev2\0pkey_mprotect\0pkey_alloc\0pkey_free\0statx\0"
    "io_pgetevents\0rseq\0";

enum { LATER_NUMBERS = 424 };
static const char later_names[] =
    "pidfd_send_signal\0io_uring_setup\0io_uring_enter\0io_uring_register\0open_tree\0move_mount\0"
    "fsopen\0fsconfig\0fsmount\0fspick\0pidfd_open\0clone3\0close_range\0openat2\0pidfd_getfd\0"
    "faccessat2\0process_madvise\0epoll_pwait2\0mount_setattr\0quotactl_fd\0"
    "landlock_create_ruleset\0landlock_add_rule\0landlock_restrict_self\0memfd_secret\0"
    "process_mrelease\0futex_waitv\0set_mempolicy_home_node\0cachestat\0fchmodat2\0"
    "map_shadow_stack\0futex_wake\0futex_wait\0futex_requeue\0statmount\0listmount\0"
    "lsm_get_self_attr\0lsm_set_self_attr\0lsm_list_modules\0mseal\0";

static const char *name_in(const char *names, size_t size, int index)
{
    const char *end = names + size - 1;
    while (index > 0 && names < end) {
        names += strlen(names) + 1;
        index--;
    }
    return names < end ? names : NULL;
}

const char *clinux_system_call_name(int number)
{
    if (number < 0)
        return NULL;
    if (number < LATER_NUMBERS)
        return name_in(first_names, sizeof first_names, number);
    return name_in(later_names, sizeof later_names, number - LATER_NUMBERS);
}

static char program_name[32];

static void append(char *text, size_t *length, size_t room, const char *more)
{
    while (*more != 0 && *length < room)
        text[(*length)++] = *more++;
}

static void append_number(char *text, size_t *length, size_t room, unsigned number)
{
    char digits[12];
    int start = sizeof digits - 1;
    digits[start] = 0;
    do
        digits[--start] = (char)('0' + number % 10);
    while ((number /= 10) != 0);
    append(text, length, room, digits + start);
}

static void report_forbidden_call(int signal, siginfo_t *info, void *context)
{
    (void)signal;
    (void)context;
    char text[160];
    size_t length = 0;
    char thread[17] = "";
    const char *name = clinux_system_call_name(info->si_syscall);
    prctl(PR_GET_NAME, thread);
    append(text, &length, sizeof text, program_name);
    append(text, &length, sizeof text, ": system call ");
    append(text, &length, sizeof text, name == NULL ? "unknown" : name);
    append(text, &length, sizeof text, " (number ");
    append_number(text, &length, sizeof text, (unsigned)info->si_syscall);
    append(text, &length, sizeof text, ") is not allowed in thread ");
    append(text, &length, sizeof text, thread);
    append(text, &length, sizeof text, "\n");
    if (write(STDERR_FILENO, text, length) < 0)
        _exit(CLINUX_EXIT_FORBIDDEN_CALL);
    _exit(CLINUX_EXIT_FORBIDDEN_CALL);
}

int clinux_report_forbidden_calls(const char *program)
{
    strncpy(program_name, program, sizeof program_name - 1);
    struct sigaction action = {.sa_sigaction = report_forbidden_call, .sa_flags = SA_SIGINFO};
    return sigaction(SIGSYS, &action, NULL) < 0 ? -errno : 0;
}

int clinux_load_filter(const void *filter, size_t bytes)
{
    struct sock_fprog program = {.len = (unsigned short)(bytes / sizeof(struct sock_filter)),
                                 .filter = (struct sock_filter *)filter};
    return syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0, &program) < 0 ? -errno : 0;
}

// MARK: Privileges

int clinux_forbid_new_privileges(void)
{
    return prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0 ? -errno : 0;
}

void clinux_limit_bounding_set(uint64_t kept)
{
    for (int capability = 0; capability < 64; capability++) {
        if ((kept & 1ULL << capability) == 0 && prctl(PR_CAPBSET_DROP, capability) < 0)
            break;
    }
}

int clinux_hide_process(void)
{
    return prctl(PR_SET_DUMPABLE, 0, 0, 0, 0) < 0 ? -errno : 0;
}

int clinux_limit(int resource, uint64_t value)
{
    struct rlimit limit;
    if (getrlimit((__rlimit_resource_t)resource, &limit) < 0)
        return -errno;
    limit.rlim_cur = limit.rlim_max = limit.rlim_max < value ? limit.rlim_max : value;
    return setrlimit((__rlimit_resource_t)resource, &limit) < 0 ? -errno : 0;
}

void clinux_limit_arenas(void)
{
    mallopt(M_ARENA_MAX, 1);
}

// MARK: Namespaces

static int write_file(const char *path, const char *text)
{
    int fd = open(path, O_WRONLY | O_CLOEXEC);
    if (fd < 0)
        return -errno;
    int error = write(fd, text, strlen(text)) < 0 ? -errno : 0;
    close(fd);
    return error;
}

static int map_identity(const char *path, unsigned id)
{
    char line[40];
    snprintf(line, sizeof line, "%u %u 1", id, id);
    return write_file(path, line);
}

// What is mapped in this namespace, mapped to the same numbers: what to write to the file of a
// process in a new one. Returns the length, or -errno.
static ssize_t same_map(const char *path, char *text, size_t size)
{
    FILE *file = fopen(path, "re");
    if (file == NULL)
        return -errno;
    size_t length = 0;
    unsigned first, outside, count;
    while (fscanf(file, "%u %u %u", &first, &outside, &count) == 3 && size - length > 40)
        length += (size_t)snprintf(text + length, size - length, "%u %u %u\n", first, first, count);
    fclose(file);
    return (ssize_t)length;
}

// Waits until the parent is in its new namespace, and maps all users and groups there.
static int map_parent(pid_t parent, int ready)
{
    static const char *const names[] = {"uid_map", "gid_map"};
    char texts[2][2048];
    for (int i = 0; i < 2; i++) {
        char path[40];
        snprintf(path, sizeof path, "/proc/self/%s", names[i]);
        if (same_map(path, texts[i], sizeof texts[i]) <= 0)
            return -1;
    }
    char byte;
    if (read(ready, &byte, 1) != 1)
        return -1;
    for (int i = 0; i < 2; i++) {
        char path[40];
        snprintf(path, sizeof path, "/proc/%d/%s", (int)parent, names[i]);
        if (write_file(path, texts[i]) < 0)
            return -1;
    }
    return 0;
}

int clinux_enter_user_namespace_of_all(void)
{
    int ready[2], status = 0;
    pid_t parent = getpid();
    if (pipe2(ready, O_CLOEXEC) < 0)
        return -errno;
    // The maps have to be written by somebody outside.
    pid_t child = fork();
    if (child == 0) {
        close(ready[1]);
        _exit(map_parent(parent, ready[0]) == 0 ? 0 : 1);
    }
    close(ready[0]);
    int error = child < 0 ? -errno : unshare(CLONE_NEWUSER) < 0 ? -errno : 0;
    if (error == 0 && write(ready[1], "", 1) != 1)
        error = -errno;
    close(ready[1]);
    if (child > 0)
        while (waitpid(child, &status, 0) < 0 && errno == EINTR)
            ;
    return error != 0 ? error : status != 0 ? -EPERM : 0;
}

uint64_t clinux_permitted_capabilities(void)
{
    struct __user_cap_header_struct header = {_LINUX_CAPABILITY_VERSION_3, 0};
    struct __user_cap_data_struct data[2];
    if (syscall(SYS_capget, &header, data) < 0)
        return 0;
    return data[0].permitted | (uint64_t)data[1].permitted << 32;
}

int clinux_enter_user_namespace(void)
{
    unsigned user = geteuid(), group = getegid();
    if (unshare(CLONE_NEWUSER) < 0)
        return -errno;
    // Who does not give up setgroups may not map a group.
    write_file("/proc/self/setgroups", "deny");
    int error = map_identity("/proc/self/uid_map", user);
    return error != 0 ? error : map_identity("/proc/self/gid_map", group);
}

int clinux_enter_other_namespaces(void)
{
    return unshare(CLONE_NEWNS | CLONE_NEWNET | CLONE_NEWIPC) < 0 ? -errno : 0;
}

// The user namespace first: it gives the right to enter the others.
static const struct {
    const char *path;
    int kind;
} namespaces[CLINUX_NAMESPACE_COUNT] = {
    {"/proc/self/ns/user", CLONE_NEWUSER},
    {"/proc/self/ns/mnt", CLONE_NEWNS},
    {"/proc/self/ns/net", CLONE_NEWNET},
    {"/proc/self/ns/ipc", CLONE_NEWIPC},
};

int clinux_open_namespaces(int *fds)
{
    for (int i = 0; i < CLINUX_NAMESPACE_COUNT; i++) {
        fds[i] = open(namespaces[i].path, O_RDONLY | O_CLOEXEC);
        if (fds[i] < 0) {
            int error = -errno;
            while (i-- > 0)
                close(fds[i]);
            return error;
        }
    }
    return 0;
}

int clinux_join_namespaces(const int *fds)
{
    for (int i = 0; i < CLINUX_NAMESPACE_COUNT; i++)
        if (setns(fds[i], namespaces[i].kind) < 0)
            return -errno;
    return 0;
}

enum { MAX_FOLDERS = 64 };

// The two calls are younger than the C library's headers need be.
enum { OPEN_TREE_COPY = 1, WITH_ALL_BELOW = 0x8000, MOVE_EMPTY_PATH = 4 };

// Makes the folder `path`, and those above it, below the current one.
static int make_folders(const char *path)
{
    char name[4096];
    size_t length = strlen(path);
    if (length >= sizeof name) {
        errno = ENAMETOOLONG;
        return -1;
    }
    memcpy(name, path, length + 1);
    for (size_t i = 1; i <= length; i++) {
        if (name[i] != '/' && name[i] != 0)
            continue;
        char end = name[i];
        name[i] = 0;
        if (mkdir(name, 0555) < 0 && errno != EEXIST)
            return -1;
        name[i] = end;
    }
    return 0;
}

static int fill_root(char *const *folders, const int *trees, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        const char *name = folders[i] + strspn(folders[i], "/");
        if (make_folders(name) < 0)
            return -1;
        if (syscall(SYS_move_mount, trees[i], "", AT_FDCWD, name, MOVE_EMPTY_PATH) < 0)
            return -1;
    }
    return 0;
}

static int replace_root(char *const *folders, const int *trees, size_t count, const char **step)
{
    // Nothing of this may come to be seen outside.
    *step = "mount";
    if (mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) < 0)
        return -1;
    // Any folder will do, and this one is there: /proc/self was just written to.
    if (mount("apus", "/proc", "tmpfs", MS_NOSUID | MS_NODEV | MS_NOEXEC, "size=1m,mode=555") < 0)
        return -1;
    *step = "chdir";
    if (chdir("/proc") < 0)
        return -1;
    *step = "move_mount";
    if (fill_root(folders, trees, count) < 0)
        return -1;
    *step = "mount";
    if (mount(NULL, ".", NULL, MS_REMOUNT | MS_BIND | MS_RDONLY | MS_NOSUID | MS_NODEV | MS_NOEXEC,
              NULL) < 0)
        return -1;
    // The old root ends up on top of the new one, from where it is taken away.
    *step = "pivot_root";
    if (syscall(SYS_pivot_root, ".", ".") < 0)
        return -1;
    *step = "umount2";
    if (umount2(".", MNT_DETACH) < 0)
        return -1;
    *step = "chdir";
    return chdir("/");
}

int clinux_empty_root(char *const *folders, size_t count, const char **step)
{
    int trees[MAX_FOLDERS];
    *step = "open_tree";
    if (count > MAX_FOLDERS)
        return -E2BIG;
    int error = 0;
    size_t opened = 0;
    for (; opened < count && error == 0; opened++) {
        trees[opened] = (int)syscall(SYS_open_tree, AT_FDCWD, folders[opened],
                                     OPEN_TREE_COPY | WITH_ALL_BELOW | O_CLOEXEC);
        if (trees[opened] < 0)
            error = -errno;
    }
    if (error == 0 && replace_root(folders, trees, count, step) < 0)
        error = -errno;
    for (size_t i = 0; i < opened; i++)
        if (trees[i] >= 0)
            close(trees[i]);
    return error;
}

int clinux_change_root(int folder)
{
    if (folder >= 0 ? fchdir(folder) < 0 : chdir("/proc/self/fdinfo") < 0)
        return -errno;
    return chroot(".") < 0 || chdir("/") < 0 ? -errno : 0;
}

// MARK: Landlock (see the kernel's Documentation/userspace-api/landlock.rst)

enum { LANDLOCK_VERSION = 1, LANDLOCK_PATH_BENEATH = 1 };

struct landlock_ruleset {
    uint64_t files;
    uint64_t network;
    uint64_t scoped;
};

struct __attribute__((packed)) landlock_path {
    uint64_t allowed;
    int32_t fd;
};

// All that a version of Landlock can take away; returns the structure's size.
static size_t landlock_everything(int version, enum clinux_landlock_signals signals,
                                  struct landlock_ruleset *rules)
{
    unsigned file_rights = version >= 5 ? 16 : version >= 3 ? 15 : version >= 2 ? 14 : 13;
    rules->files = (1ULL << file_rights) - 1;
    rules->network = version >= 4 ? 3 : 0;
    rules->scoped = version < 6 ? 0 : signals == CLINUX_LANDLOCK_SIGNALS_KEPT ? 3 : 1;
    return version >= 6 ? 24 : version >= 4 ? 16 : 8;
}

int clinux_landlock(const int *folders, size_t count, enum clinux_landlock_signals signals)
{
    int version =
        (int)syscall(SYS_landlock_create_ruleset, NULL, (size_t)0, LANDLOCK_VERSION);
    if (version < 0)
        return errno == ENOSYS || errno == EOPNOTSUPP ? 0 : -errno;
    struct landlock_ruleset rules;
    size_t size = landlock_everything(version, signals, &rules);
    // The first version lets nobody move files from one folder to another.
    if (count > 0 && version < 2)
        return -EOPNOTSUPP;
    int set = (int)syscall(SYS_landlock_create_ruleset, &rules, size, 0);
    if (set < 0)
        return -errno;
    int error = 0;
    for (size_t i = 0; i < count && error == 0; i++) {
        struct landlock_path folder = {rules.files, folders[i]};
        if (syscall(SYS_landlock_add_rule, set, LANDLOCK_PATH_BENEATH, &folder, 0) < 0)
            error = -errno;
    }
    if (error == 0 && syscall(SYS_landlock_restrict_self, set, 0) < 0)
        error = -errno;
    close(set);
    return error != 0 ? error : version;
}

// MARK: Processes

int clinux_fork(void)
{
    pid_t child = fork();
    return child < 0 ? -errno : child;
}

static int argument_count;
static char **arguments;
// The kernel shows what is in the place of the arguments, which follow each other there.
static size_t argument_room;

// The C library gives these to every function that runs before main.
__attribute__((constructor)) static void keep_arguments(int count, char **values)
{
    argument_count = count;
    arguments = values;
    if (count > 0)
        argument_room = (size_t)(values[count - 1] + strlen(values[count - 1]) - values[0]);
}

void clinux_set_command_line(const void *text, size_t length)
{
    if (argument_room == 0 || text == NULL)
        return;
    memset(arguments[0], 0, argument_room);
    memcpy(arguments[0], text, length < argument_room ? length : argument_room);
}

int clinux_argument_count(void)
{
    return argument_count;
}

const char *clinux_argument(int index)
{
    return index >= 0 && index < argument_count ? arguments[index] : NULL;
}
