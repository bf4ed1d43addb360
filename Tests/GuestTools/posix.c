// What a file system does where POSIX says what it must do: errors and effects, one line each, in
// the order of the cases of pjdfstest. The same program on two file systems prints the same lines,
// as far as they do the same.
//
//   posix FOLDER    works in an empty folder, as root
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/sysmacros.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

enum { USER = 65534, OTHER = 65533 };

static char long_name[300], long_path[5000];

static void report(int line, const char *what, long result)
{
    int error = errno;
    printf("%d %s: ", line, what);
    if (result < 0)
        printf("%s\n", strerrorname_np(error));
    else
        printf("%ld\n", result);
}

// Prints what a call returns, or its error.
#define TRY(call) (errno = 0, report(__LINE__, #call, (long)(call)))
// Prints the result of a call of somebody who is not root.
#define TRY_AS(user, call) (become(user), TRY(call), become(0))
// Prints whether something holds.
#define IS(condition) printf("%d %s: %s\n", __LINE__, #condition, (condition) ? "yes" : "no")

static void become(unsigned user)
{
    // Back to root first, who may become anybody.
    if (seteuid(0) < 0 || setegid(0) < 0 || setgroups(0, NULL) < 0 ||
        (user != 0 && (setegid(user) < 0 || seteuid(user) < 0)))
        exit(2);
}

static int make(const char *path, unsigned mode)
{
    int fd = open(path, O_CREAT | O_EXCL | O_WRONLY, mode);
    return fd < 0 ? -1 : close(fd);
}

static int try_open(const char *path, int flags)
{
    int fd = open(path, flags, 0644);
    return fd < 0 ? -1 : close(fd);
}

static int put(const char *path, const char *text)
{
    int fd = open(path, O_WRONLY | O_APPEND | O_CREAT, 0644);
    if (fd < 0)
        return -1;
    int count = (int)write(fd, text, strlen(text));
    close(fd);
    return count;
}

static void show(int line, const char *path)
{
    struct stat s;
    if (lstat(path, &s) < 0)
        printf("%d %s: %s\n", line, path, strerrorname_np(errno));
    else
        printf("%d %s: mode %o links %ld user %u group %u size %ld device %x\n", line, path, s.st_mode,
               S_ISDIR(s.st_mode) ? 0L : (long)s.st_nlink, s.st_uid, s.st_gid,
               S_ISDIR(s.st_mode) ? 0L : (long)s.st_size,
               S_ISCHR(s.st_mode) || S_ISBLK(s.st_mode) ? (unsigned)s.st_rdev : 0);
}

#define SHOW(path) show(__LINE__, path)

// Which of a file's times a call changes.
static struct stat earlier;

static void before(const char *path)
{
    usleep(20000);
    lstat(path, &earlier);
}

static int differs(struct timespec a, struct timespec b)
{
    return a.tv_sec != b.tv_sec || a.tv_nsec != b.tv_nsec;
}

static void after(int line, const char *path)
{
    struct stat s;
    lstat(path, &s);
    printf("%d times of %s:%s%s\n", line, path, differs(s.st_mtim, earlier.st_mtim) ? " modified" : "",
           differs(s.st_ctim, earlier.st_ctim) ? " changed" : "");
}

#define TIMES(path, call) (before(path), TRY(call), after(__LINE__, path))

static void names(const char *what, int (*call)(const char *))
{
    printf("names for %s\n", what);
    TRY(call(""));
    TRY(call("missing/name"));
    TRY(call("file/name"));
    TRY(call(long_name));
    TRY(call(long_path));
    TRY(call("loop/name"));
}

static int do_chmod(const char *path) { return chmod(path, 0600); }
static int do_chown(const char *path) { return chown(path, 1, 1); }
static int do_mkdir(const char *path) { return mkdir(path, 0755); }
static int do_fifo(const char *path) { return mkfifo(path, 0644); }
static int do_open(const char *path) { return try_open(path, O_RDONLY); }
static int do_create(const char *path) { return try_open(path, O_CREAT | O_WRONLY); }
static int do_link(const char *path) { return link("file", path); }
static int do_link_from(const char *path) { return link(path, "new"); }
static int do_symlink(const char *path) { return symlink("file", path); }
static int do_rename(const char *path) { return rename(path, "new"); }
static int do_rename_to(const char *path) { return rename("file", path); }
static int do_truncate(const char *path) { return truncate(path, 1); }
static int do_times(const char *path) { return utimensat(AT_FDCWD, path, NULL, 0); }

static void chmods(void)
{
    make("c", 0644);
    TIMES("c", chmod("c", 0111));
    SHOW("c");
    TRY(chmod("c", 07777));
    SHOW("c");
    TRY_AS(USER, chmod("c", 0600));
    TRY(chown("c", USER, USER));
    SHOW("c");
    TRY(chmod("c", 06755));
    TRY_AS(USER, chmod("c", 0640));
    SHOW("c");
    // Not of the group: the set-group bit is not kept.
    TRY(chown("c", USER, OTHER));
    TRY_AS(USER, chmod("c", 02755));
    SHOW("c");
    TRY_AS(USER, chmod("c", 01644));
    SHOW("c");
    TRY(mkdir("cd", 0755));
    TRY(chmod("cd", 03777));
    SHOW("cd");
    TRY(symlink("c", "cl"));
    TRY(chmod("cl", 0604));
    SHOW("c");
    TRY(unlink("cl") | unlink("c") | rmdir("cd"));
}

static void chowns(void)
{
    make("o", 0644);
    TRY(chmod("o", 06755));
    TIMES("o", chown("o", USER, OTHER));
    SHOW("o");
    TRY_AS(USER, chown("o", OTHER, (gid_t)-1));
    TRY_AS(USER, chown("o", (uid_t)-1, USER));
    SHOW("o");
    TRY_AS(USER, chown("o", (uid_t)-1, OTHER));
    TRY_AS(OTHER, chown("o", (uid_t)-1, USER));
    TRY(chmod("o", 06755));
    TRY_AS(USER, chown("o", USER, USER));
    SHOW("o");
    TRY(chmod("o", 06644));
    TRY(chown("o", 0, 0));
    SHOW("o");
    TRY(symlink("o", "ol"));
    TRY(lchown("ol", USER, USER));
    SHOW("ol");
    SHOW("o");
    TRY(unlink("ol") | unlink("o"));
}

static void links(void)
{
    make("l", 0644);
    TIMES("l", link("l", "l2"));
    SHOW("l");
    TIMES(".", link("l", "l3"));
    TRY(put("l2", "text"));
    SHOW("l3");
    TRY(link("l", "l2"));
    TRY(mkdir("ld", 0755));
    TRY(link("ld", "l4"));
    TRY(link("l", "ld"));
    TRY(symlink("l", "ls"));
    TRY(linkat(AT_FDCWD, "ls", AT_FDCWD, "ls2", 0));
    SHOW("ls2");
    TRY_AS(USER, link("l", "l5"));
    TRY(chmod("ld", 0777));
    TRY_AS(USER, link("l", "ld/l5"));
    TRY(unlink("ld/l5"));
    TRY(link("missing", "l6"));
    TIMES("l", unlink("l2"));
    TRY(unlink("l") | unlink("l3"));
    TRY(unlink("ls") | unlink("ls2") | rmdir("ld"));
}

static void folders(void)
{
    umask(027);
    TRY(mkdir("d", 0777));
    SHOW("d");
    umask(0);
    TIMES(".", mkdir("d2", 01777));
    SHOW("d2");
    TRY(mkdir("d", 0755));
    TRY(mkdir("file", 0755));
    TRY(mkdir("dangling", 0755));
    TRY(chmod("d", 02755));
    TRY(chown("d", 0, OTHER));
    TRY(mkdir("d/sub", 0755));
    SHOW("d/sub");
    TRY(make("d/f", 0644));
    SHOW("d/f");
    TRY(rmdir("d"));
    TRY(rmdir("file"));
    TRY(rmdir("missing"));
    TRY(rmdir("d2/."));
    TRY(rmdir("d2/.."));
    TRY(rmdir("link-to-folder"));
    TRY_AS(USER, rmdir("d/sub"));
    TRY_AS(USER, mkdir("d/x", 0755));
    TIMES("d", rmdir("d/sub"));
    TRY(unlink("d/f"));
    TRY(rmdir("d") | rmdir("d2"));
}

static void nodes(void)
{
    umask(022);
    TRY(mkfifo("p", 0666));
    umask(0);
    SHOW("p");
    TRY(mkfifo("p", 0666));
    TRY(mknod("n", S_IFCHR | 0640, makedev(1, 3)));
    SHOW("n");
    TRY(mknod("b", S_IFBLK | 0640, makedev(300, 70000)));
    SHOW("b");
    TRY(mknod("r", S_IFREG | 0604, 0));
    SHOW("r");
    TRY_AS(USER, mknod("open/n", S_IFCHR | 0640, makedev(1, 3)));
    TRY(unlink("p") | unlink("n") | unlink("b") | unlink("r"));
    int fd = socket(AF_UNIX, SOCK_STREAM, 0);
    struct sockaddr_un address = {AF_UNIX, "s"};
    TRY(bind(fd, (struct sockaddr *)&address, sizeof address));
    SHOW("s");
    TRY(try_open("s", O_RDONLY));
    TRY(unlink("s"));
    close(fd);
}

static void opens(void)
{
    umask(026);
    TIMES(".", try_open("e", O_CREAT | O_RDWR));
    umask(0);
    SHOW("e");
    TRY(try_open("e", O_CREAT | O_EXCL | O_RDWR));
    TRY(try_open("dangling", O_CREAT | O_EXCL | O_RDWR));
    TRY(put("e", "12345"));
    TIMES("e", try_open("e", O_WRONLY | O_TRUNC));
    SHOW("e");
    TRY(try_open("folder", O_WRONLY));
    TRY(try_open("folder", O_RDWR));
    TRY(try_open("folder", O_RDONLY | O_TRUNC));
    TRY(try_open("folder", O_RDONLY | O_CREAT));
    TRY(try_open("file", O_RDONLY | O_DIRECTORY));
    TRY(try_open("link-to-folder", O_RDONLY | O_NOFOLLOW));
    TRY(try_open("loop", O_RDONLY));
    TRY(try_open("fifo", O_WRONLY | O_NONBLOCK));
    TRY(try_open("missing", O_RDONLY));
    for (unsigned mode = 0; mode < 8; mode++) {
        chmod("e", mode << 6 | (7 - mode));
        chown("e", USER, USER);
        TRY_AS(USER, try_open("e", O_RDONLY));
        TRY_AS(USER, try_open("e", O_WRONLY));
        TRY_AS(USER, try_open("e", O_RDWR));
        TRY_AS(USER, try_open("e", O_RDONLY | O_TRUNC));
        TRY_AS(OTHER, try_open("e", O_RDWR));
        TRY_AS(OTHER, access("e", X_OK));
    }
    TRY(unlink("e"));
    TRY_AS(USER, try_open("new", O_CREAT | O_RDWR));
    TRY_AS(USER, try_open("open/new", O_CREAT | O_RDWR));
    SHOW("open/new");
    TRY(unlink("open/new"));
    // A file without a name.
    int fd = open(".", O_TMPFILE | O_RDWR, 0600);
    TRY(fd < 0 ? -1 : 0);
    char path[40];
    snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    TRY(write(fd, "abc", 3));
    TRY(linkat(AT_FDCWD, path, AT_FDCWD, "named", AT_SYMLINK_FOLLOW));
    SHOW("named");
    close(fd);
    TRY(unlink("named"));
}

static void renames(void)
{
    make("a", 0644);
    put("a", "a");
    TIMES("a", rename("a", "b"));
    SHOW("a");
    SHOW("b");
    TIMES(".", rename("b", "a"));
    make("b", 0600);
    TRY(rename("a", "b"));
    SHOW("b");
    TRY(link("b", "b2"));
    TRY(rename("b", "b2"));
    SHOW("b2");
    TRY(unlink("b2"));
    TRY(rename("b", "b"));
    mkdir("x", 0755);
    mkdir("y", 0755);
    mkdir("x/in", 0755);
    TRY(rename("x", "b"));
    TRY(rename("b", "x"));
    TRY(rename("y", "x"));
    TRY(rename("x", "y"));
    SHOW("y/in");
    TRY(rename("y", "y/in/deeper"));
    TRY(rename("y/in", "y"));
    TRY(rename("y/.", "z"));
    TRY(rename("y/..", "z"));
    TRY(rename("missing", "z"));
    TIMES("y", rename("y/in", "in"));
    TRY(renameat2(AT_FDCWD, "b", AT_FDCWD, "y", RENAME_NOREPLACE));
    TRY(renameat2(AT_FDCWD, "b", AT_FDCWD, "y", RENAME_EXCHANGE));
    SHOW("y");
    TRY(renameat2(AT_FDCWD, "y", AT_FDCWD, "missing", RENAME_EXCHANGE));
    TRY(rename("link-to-folder", "ll"));
    SHOW("ll");
    TRY(rename("ll", "link-to-folder"));
    // A sticky folder.
    mkdir("t", 0);
    chmod("t", 01777);
    make("t/own", 0644);
    chown("t/own", OTHER, OTHER);
    TRY_AS(USER, rename("t/own", "t/moved"));
    TRY_AS(USER, unlink("t/own"));
    TRY_AS(OTHER, rename("t/own", "t/moved"));
    TRY_AS(OTHER, unlink("t/moved"));
    TRY_AS(USER, rename("file", "open/file"));
    TRY(rmdir("t") | rmdir("in") | rmdir("b") | unlink("y"));
}

static void symlinks(void)
{
    char target[5000];
    TIMES(".", symlink("missing", "s"));
    SHOW("s");
    TRY(readlink("s", target, sizeof target));
    TRY(readlink("s", target, 3));
    TRY(readlink("file", target, sizeof target));
    TRY(readlink("missing", target, sizeof target));
    TRY(symlink("x", "s"));
    TRY(symlink("", "s2"));
    TRY(unlink("s"));
    memset(target, 'x', 4095);
    target[4095] = 0;
    TRY(symlink(target, "s"));
    target[4000] = 0;
    TRY(symlink(target, "s"));
    SHOW("s");
    TRY(unlink("s"));
}

static void truncates(void)
{
    make("t", 0644);
    put("t", "0123456789");
    TIMES("t", truncate("t", 5));
    SHOW("t");
    TIMES("t", truncate("t", 100000));
    SHOW("t");
    TRY(truncate("t", -1));
    TRY(truncate("t", 0x7fffffffffffffff));
    TRY(truncate("folder", 0));
    TRY(truncate("fifo", 0));
    TRY_AS(USER, truncate("t", 1));
    int fd = open("t", O_RDONLY);
    TRY(ftruncate(fd, 1));
    close(fd);
    fd = open("t", O_RDWR);
    chmod("t", 0);
    TRY(ftruncate(fd, 7));
    TRY(posix_fallocate(fd, 0, 50));
    SHOW("t");
    TRY(posix_fallocate(fd, 0, 0));
    TRY(fallocate(fd, FALLOC_FL_KEEP_SIZE, 0, 4096));
    TRY(fallocate(fd, FALLOC_FL_KEEP_SIZE | FALLOC_FL_PUNCH_HOLE, 0, 10));
    TRY(lseek(fd, 0, SEEK_HOLE));
    TRY(lseek(fd, 1000, SEEK_DATA));
    SHOW("t");
    close(fd);
    chown("t", USER, USER);
    chmod("t", 06777);
    TRY_AS(USER, truncate("t", 3));
    SHOW("t");
    chmod("t", 06777);
    TRY_AS(USER, put("t", "x"));
    SHOW("t");
    chmod("t", 06777);
    TRY_AS(OTHER, put("t", "x"));
    SHOW("t");
    TRY(unlink("t"));
}

static void unlinks(void)
{
    make("u", 0644);
    TIMES(".", unlink("u"));
    TRY(unlink("u"));
    TRY(unlink("folder"));
    TRY(unlink("file/x"));
    make("folder/u", 0666);
    TRY_AS(USER, unlink("folder/u"));
    TRY(unlink("folder/u"));
    int fd = open("u", O_CREAT | O_RDWR, 0644);
    struct stat s;
    TRY(unlink("u"));
    TRY(write(fd, "abc", 3));
    TRY(fstat(fd, &s));
    IS(s.st_nlink == 0 && s.st_size == 3);
    close(fd);
    TRY(unlink("link-to-folder/"));
    TRY(symlink("file", "ul"));
    TRY(unlink("ul"));
    SHOW("file");
}

static void times(void)
{
    struct timespec set[2] = {{1000, 1}, {2000, 999999999}};
    struct stat s;
    make("m", 0644);
    TRY(utimensat(AT_FDCWD, "m", set, 0));
    stat("m", &s);
    IS(s.st_atim.tv_sec == 1000 && s.st_atim.tv_nsec == 1);
    IS(s.st_mtim.tv_sec == 2000 && s.st_mtim.tv_nsec == 999999999);
    set[0].tv_nsec = UTIME_OMIT;
    set[1] = (struct timespec){-5, 0};
    TRY(utimensat(AT_FDCWD, "m", set, 0));
    stat("m", &s);
    IS(s.st_atim.tv_sec == 1000 && s.st_mtim.tv_sec == -5);
    set[1] = (struct timespec){0x100000001, 0};
    TRY(utimensat(AT_FDCWD, "m", set, 0));
    stat("m", &s);
    IS(s.st_mtim.tv_sec == 0x100000001);
    set[1].tv_nsec = UTIME_NOW;
    TRY(utimensat(AT_FDCWD, "m", set, 0));
    stat("m", &s);
    IS(s.st_mtim.tv_sec > 0x60000000 && s.st_mtim.tv_sec < 0x100000000);
    set[1].tv_nsec = 1000000000;
    TRY(utimensat(AT_FDCWD, "m", set, 0));
    TRY_AS(USER, utimensat(AT_FDCWD, "m", NULL, 0));
    set[0] = set[1] = (struct timespec){1, 0};
    chmod("m", 0666);
    TRY_AS(USER, utimensat(AT_FDCWD, "m", NULL, 0));
    TRY_AS(USER, utimensat(AT_FDCWD, "m", set, 0));
    TRY(symlink("m", "ml"));
    TRY(utimensat(AT_FDCWD, "ml", set, AT_SYMLINK_NOFOLLOW));
    lstat("ml", &s);
    IS(s.st_mtim.tv_sec == 1);
    TIMES("m", put("m", "x"));
    TRY(unlink("ml") | unlink("m"));
}

static int lock(int fd, int command, int type, long start, long length)
{
    struct flock wanted = {(short)type, SEEK_SET, start, length, 0};
    return fcntl(fd, command, &wanted);
}

// A process with the file open, which does what it is told: another user of locks.
struct other {
    pid_t process;
    int to, from;
};

// What it is told to do.
struct order {
    enum { SET, WAIT, FLOCK, REOPEN } what;
    int type;
    long start, length;
};

static struct other other_process(const char *path, int inherited)
{
    int to[2], from[2];
    if (pipe(to) < 0 || pipe(from) < 0)
        exit(2);
    struct other other = {fork(), to[1], from[0]};
    if (other.process != 0) {
        close(to[0]);
        close(from[1]);
        return other;
    }
    // Or the lock would be its as well.
    close(inherited);
    int fd = open(path, O_RDWR);
    struct order order;
    close(to[1]);
    while (read(to[0], &order, sizeof order) == sizeof order) {
        int result = order.what == FLOCK    ? flock(fd, order.type)
                     : order.what == REOPEN ? close(open(path, O_RDONLY))
                     : lock(fd, order.what == WAIT ? F_SETLKW : F_SETLK, order.type, order.start,
                            order.length);
        result = result < 0 ? -errno : result;
        if (write(from[1], &result, sizeof result) < 0)
            break;
    }
    _exit(0);
}

static void tell(struct other *other, struct order order)
{
    if (write(other->to, &order, sizeof order) < 0)
        exit(2);
}

static int answer(struct other *other)
{
    int result;
    if (read(other->from, &result, sizeof result) != sizeof result)
        exit(2);
    errno = -result;
    return result < 0 ? -1 : result;
}

static int ask(struct other *other, int what, int type, long start, long length)
{
    tell(other, (struct order){what, type, start, length});
    return answer(other);
}

static void stop(struct other *other)
{
    close(other->to);
    waitpid(other->process, NULL, 0);
    close(other->from);
}

// What another process's lock looks like.
static void find(int line, int fd, int type, long start, long length, struct other *other)
{
    struct flock found = {(short)type, SEEK_SET, start, length, 0};
    int result = fcntl(fd, F_GETLK, &found);
    if (result < 0)
        report(line, "F_GETLK", result);
    else if (found.l_type == F_UNLCK)
        printf("%d free\n", line);
    else
        printf("%d type %d start %ld length %ld %s\n", line, found.l_type, (long)found.l_start,
               (long)found.l_len, found.l_pid == other->process ? "of the other" : "of somebody");
}

#define FIND(type, start, length) find(__LINE__, fd, type, start, length, &other)

static void record_locks(void)
{
    put("k", "0123456789");
    int fd = open("k", O_RDWR);
    struct other other = other_process("k", fd);
    TRY(ask(&other, SET, F_WRLCK, 10, 10));
    FIND(F_RDLCK, 0, 0);
    FIND(F_WRLCK, 0, 10);
    FIND(F_WRLCK, 19, 1);
    FIND(F_WRLCK, 20, 0);
    TRY(lock(fd, F_SETLK, F_RDLCK, 15, 1));
    TRY(lock(fd, F_SETLK, F_WRLCK, 0, 10));
    TRY(lock(fd, F_SETLK, F_WRLCK, 20, 0));
    TRY(ask(&other, SET, F_RDLCK, 9, 5));
    TRY(ask(&other, SET, F_RDLCK, 12, 3));
    FIND(F_RDLCK, 10, 10);
    FIND(F_WRLCK, 12, 8);
    TRY(lock(fd, F_SETLK, F_RDLCK, 12, 3));
    TRY(lock(fd, F_SETLK, F_WRLCK, 12, 3));
    TRY(ask(&other, SET, F_UNLCK, 10, 4));
    FIND(F_WRLCK, 10, 4);
    FIND(F_WRLCK, 14, 2);
    // A close of any descriptor of the file ends all.
    TRY(ask(&other, REOPEN, 0, 0, 0));
    FIND(F_WRLCK, 0, 0);
    // One that waits gets it, part by part.
    tell(&other, (struct order){WAIT, F_WRLCK, 0, 0});
    usleep(50000);
    TRY(lock(fd, F_SETLK, F_UNLCK, 0, 0));
    TRY(answer(&other));
    FIND(F_RDLCK, 3, 1);
    TRY(lock(fd, F_SETLK, F_RDLCK, 3, 1));
    // And so does one that waits for a process that ends.
    kill(other.process, SIGKILL);
    TRY(lock(fd, F_SETLKW, F_WRLCK, 0, 0));
    stop(&other);
    TRY(lock(fd, F_SETLK, F_UNLCK, 5, 0));
    TRY(lock(fd, F_SETLK, F_WRLCK, -1, 1));
    TRY(lock(fd, F_SETLK, 7, 0, 1));
    int reader = open("k", O_RDONLY);
    TRY(lock(reader, F_SETLK, F_WRLCK, 0, 0));
    TRY(lock(reader, F_SETLK, F_RDLCK, 0, 0));
    close(reader);
    TRY(lock(fd, F_OFD_SETLK, F_WRLCK, 0, 5));
    other = other_process("k", fd);
    TRY(ask(&other, SET, F_WRLCK, 4, 1));
    TRY(ask(&other, SET, F_WRLCK, 5, 1));
    stop(&other);
    close(fd);
}

static void file_locks(void)
{
    int fd = open("k", O_RDWR);
    struct other other = other_process("k", fd);
    TRY(ask(&other, FLOCK, LOCK_EX, 0, 0));
    TRY(flock(fd, LOCK_SH | LOCK_NB));
    TRY(ask(&other, FLOCK, LOCK_SH, 0, 0));
    TRY(flock(fd, LOCK_SH | LOCK_NB));
    TRY(flock(fd, LOCK_EX | LOCK_NB));
    TRY(lock(fd, F_SETLK, F_WRLCK, 0, 0));
    TRY(ask(&other, REOPEN, 0, 0, 0));
    TRY(flock(fd, LOCK_EX | LOCK_NB));
    kill(other.process, SIGKILL);
    TRY(flock(fd, LOCK_EX));
    stop(&other);
    other = other_process("k", fd);
    TRY(ask(&other, FLOCK, LOCK_SH | LOCK_NB, 0, 0));
    tell(&other, (struct order){FLOCK, LOCK_SH, 0, 0});
    usleep(50000);
    // What is open twice holds the lock until both are closed.
    int copy = dup(fd);
    close(fd);
    usleep(50000);
    TRY(flock(copy, LOCK_EX | LOCK_NB));
    close(copy);
    TRY(answer(&other));
    fd = open("k", O_RDONLY);
    TRY(flock(fd, LOCK_EX | LOCK_NB));
    TRY(flock(fd, LOCK_SH | LOCK_NB));
    stop(&other);
    TRY(flock(fd, LOCK_EX | LOCK_NB));
    close(fd);
    TRY(unlink("k"));
}

int main(int argc, char **argv)
{
    if (argc != 2 || chdir(argv[1]) < 0 || getuid() != 0)
        return 2;
    setvbuf(stdout, NULL, _IOLBF, 0);
    umask(0);
    memset(long_name, 'n', 256);
    for (int i = 0; i < 4200; i++)
        long_path[i] = i % 2 ? '/' : '.';
    chmod(".", 0755);
    if (make("file", 0644) | mkdir("folder", 0755) | mkdir("open", 0777) | mkfifo("fifo", 0644) |
        symlink("folder", "link-to-folder") | symlink("loop", "loop") |
        symlink("nowhere/x", "dangling"))
        return 2;
    names("chmod", do_chmod);
    names("chown", do_chown);
    names("mkdir", do_mkdir);
    names("mkfifo", do_fifo);
    names("open", do_open);
    names("create", do_create);
    names("link to", do_link);
    names("link from", do_link_from);
    names("symlink", do_symlink);
    names("rename from", do_rename);
    names("rename to", do_rename_to);
    names("rmdir", rmdir);
    names("unlink", unlink);
    names("truncate", do_truncate);
    names("utimensat", do_times);
    chmods();
    chowns();
    links();
    folders();
    nodes();
    opens();
    renames();
    symlinks();
    truncates();
    unlinks();
    times();
    record_locks();
    file_locks();
    return 0;
}
