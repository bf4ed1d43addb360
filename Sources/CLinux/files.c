#define _GNU_SOURCE
#include "CLinuxFiles.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/capability.h>
#include <linux/openat2.h>
#include <sched.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/fsuid.h>
#include <sys/inotify.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/xattr.h>
#include <unistd.h>

// The calls are younger than the C library's headers need be.
enum { TREE_COPY = 1, WITH_ALL_BELOW = 0x8000 };
enum { ATTRIBUTE_RDONLY = 1, ATTRIBUTE_NOSUID = 2, ATTRIBUTE_NODEV = 4, ATTRIBUTE_NOEXEC = 8 };

struct mount_attributes {
    uint64_t set, clear, propagation, user_namespace;
};

#define RETURN_RETRYING(call)                                                                      \
    do {                                                                                           \
        long result_;                                                                              \
        do                                                                                         \
            result_ = (long)(call);                                                                \
        while (result_ < 0 && errno == EINTR);                                                     \
        return result_ < 0 ? -errno : result_;                                                     \
    } while (0)

// MARK: Opening

// A copy of the mount at `path` as a mount of its own; -1 if that cannot be.
static int copy_tree(const char *path, unsigned flags, uint64_t attributes)
{
    int tree = (int)syscall(SYS_open_tree, AT_FDCWD, path, TREE_COPY | flags | O_CLOEXEC);
    if (tree < 0)
        return -1;
    struct mount_attributes wanted = {.set = attributes};
    if (syscall(SYS_mount_setattr, tree, "", AT_EMPTY_PATH | flags, &wanted, sizeof wanted) == 0)
        return tree;
    close(tree);
    return -1;
}

int clinux_open_share(const char *path, int is_read_only)
{
    int folder = open(path, O_PATH | O_DIRECTORY | O_CLOEXEC);
    if (folder < 0)
        return -errno;
    uint64_t attributes = ATTRIBUTE_NOSUID | ATTRIBUTE_NODEV | ATTRIBUTE_NOEXEC;
    int tree = copy_tree(path, WITH_ALL_BELOW, attributes | (is_read_only ? ATTRIBUTE_RDONLY : 0));
    if (tree < 0)
        return folder;
    close(folder);
    return tree;
}

int clinux_open_proc(void)
{
    int tree = copy_tree("/proc", 0,
                         ATTRIBUTE_RDONLY | ATTRIBUTE_NOSUID | ATTRIBUTE_NODEV | ATTRIBUTE_NOEXEC);
    if (tree >= 0)
        return tree;
    int folder = open("/proc", O_PATH | O_DIRECTORY | O_CLOEXEC);
    return folder < 0 ? -errno : folder;
}

int clinux_enter_descriptors(int proc)
{
    if (unshare(CLONE_FS) < 0)
        return -errno;
    umask(0);
    // The C library's function would do it to all threads.
    if (clinux_may_set_users() && syscall(SYS_setgroups, 0, NULL) < 0 && errno != EPERM)
        return -errno;
    int folder = openat(proc, "self/fd", O_PATH | O_DIRECTORY | O_CLOEXEC);
    if (folder < 0)
        return -errno;
    int error = fchdir(folder) < 0 ? -errno : 0;
    close(folder);
    return error;
}

struct link_name {
    char text[12];
};

// What a descriptor is called in the folder of descriptors.
static struct link_name name_of(int fd)
{
    struct link_name name;
    char digits[12];
    int count = 0, length = 0;
    unsigned number = (unsigned)fd;
    do
        digits[count++] = (char)('0' + number % 10);
    while ((number /= 10) != 0);
    while (count > 0)
        name.text[length++] = digits[--count];
    name.text[length] = 0;
    return name;
}

// MARK: By folder and name

int clinux_open_beneath(int folder, const char *name, int flags, unsigned mode)
{
    // Modes that mean nothing are refused.
    int creates = (flags & O_CREAT) != 0 || (flags & O_TMPFILE) == O_TMPFILE;
    struct open_how how = {
        .flags = (unsigned)flags | O_CLOEXEC | O_NOFOLLOW,
        .mode = creates ? mode & 07777 : 0,
        .resolve = RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS | RESOLVE_NO_MAGICLINKS,
    };
    RETURN_RETRYING(syscall(SYS_openat2, folder, name, &how, sizeof how));
}

int clinux_open_name(int folder, const char *name, int flags, unsigned mode)
{
    // There is nowhere to go with one name that is not this one.
    if (name[0] == '.' && name[1] == '.' && name[2] == 0)
        return -EXDEV;
    if (strchr(name, '/') != NULL)
        return -EXDEV;
    RETURN_RETRYING(openat(folder, name, flags | O_CLOEXEC | O_NOFOLLOW, mode & 07777));
}

int clinux_make_node(int folder, const char *name, unsigned mode, unsigned major, unsigned minor)
{
    RETURN_RETRYING(mknodat(folder, name, mode, makedev(major, minor)));
}

int clinux_make_folder(int folder, const char *name, unsigned mode)
{
    RETURN_RETRYING(mkdirat(folder, name, mode));
}

int clinux_make_symlink(const char *target, int folder, const char *name)
{
    RETURN_RETRYING(symlinkat(target, folder, name));
}

int clinux_remove(int folder, const char *name, int is_folder)
{
    RETURN_RETRYING(unlinkat(folder, name, is_folder ? AT_REMOVEDIR : 0));
}

int clinux_rename(int folder, const char *name, int new_folder, const char *new_name,
                  unsigned flags)
{
    RETURN_RETRYING(syscall(SYS_renameat2, folder, name, new_folder, new_name, flags));
}

int clinux_link(int fd, int folder, const char *name)
{
    RETURN_RETRYING(linkat(AT_FDCWD, name_of(fd).text, folder, name, AT_SYMLINK_FOLLOW));
}

int clinux_file_status(int folder, const char *name, struct clinux_file_status *status)
{
    enum { WITH_MOUNT = 0x1000 };
    struct statx found;
    if (statx(folder, name, AT_EMPTY_PATH | AT_SYMLINK_NOFOLLOW | AT_NO_AUTOMOUNT,
              STATX_BASIC_STATS | STATX_BTIME | WITH_MOUNT, &found) < 0)
        return -errno;
    *status = (struct clinux_file_status){
        .inode = found.stx_ino,
        .size = found.stx_size,
        .blocks = found.stx_blocks,
        .attributes = found.stx_attributes,
        .attributes_mask = found.stx_attributes_mask,
        .atime = found.stx_atime.tv_sec,
        .mtime = found.stx_mtime.tv_sec,
        .ctime = found.stx_ctime.tv_sec,
        .btime = found.stx_btime.tv_sec,
        .atime_ns = found.stx_atime.tv_nsec,
        .mtime_ns = found.stx_mtime.tv_nsec,
        .ctime_ns = found.stx_ctime.tv_nsec,
        .btime_ns = found.stx_btime.tv_nsec,
        .mask = found.stx_mask,
        .mode = found.stx_mode,
        .links = found.stx_nlink,
        .user = found.stx_uid,
        .group = found.stx_gid,
        .block_size = found.stx_blksize,
        .major = found.stx_dev_major,
        .minor = found.stx_dev_minor,
        .node_major = found.stx_rdev_major,
        .node_minor = found.stx_rdev_minor,
    };
    // Behind the device numbers, where older headers have a spare field.
    if (found.stx_mask & WITH_MOUNT)
        memcpy(&status->mount, (char *)&found.stx_dev_minor + sizeof found.stx_dev_minor,
               sizeof status->mount);
    return 0;
}

int clinux_is_file(int fd, uint64_t inode, uint32_t major, uint32_t minor)
{
    struct stat status;
    return fstat(fd, &status) == 0 && status.st_ino == inode &&
           status.st_dev == makedev(major, minor);
}

// MARK: By descriptor, in threads that have entered their descriptors

int clinux_reopen(int fd, int flags)
{
    RETURN_RETRYING(open(name_of(fd).text, flags | O_CLOEXEC | O_NOCTTY));
}

int clinux_get_handle(int fd, struct clinux_file_handle *handle)
{
    struct {
        struct file_handle head;
        unsigned char bytes[CLINUX_HANDLE_SIZE];
    } found = {.head.handle_bytes = CLINUX_HANDLE_SIZE};
    int mount;
    if (name_to_handle_at(fd, "", &found.head, &mount, AT_EMPTY_PATH) < 0)
        return -errno;
    handle->size = found.head.handle_bytes;
    handle->type = found.head.handle_type;
    memcpy(handle->bytes, found.head.f_handle, handle->size);
    return 0;
}

int clinux_open_handle(int mount, const struct clinux_file_handle *handle, int flags)
{
    struct {
        struct file_handle head;
        unsigned char bytes[CLINUX_HANDLE_SIZE];
    } wanted;
    if (handle->size > CLINUX_HANDLE_SIZE)
        return -EINVAL;
    wanted.head.handle_bytes = handle->size;
    wanted.head.handle_type = handle->type;
    memcpy(wanted.head.f_handle, handle->bytes, handle->size);
    RETURN_RETRYING(open_by_handle_at(mount, &wanted.head, flags | O_CLOEXEC));
}

int clinux_path(int fd, char *path, size_t size)
{
    ssize_t length = readlinkat(AT_FDCWD, name_of(fd).text, path, size);
    if (length < 0)
        return -errno;
    if ((size_t)length == size)
        return -ENAMETOOLONG;
    path[length] = 0;
    return (int)length;
}

int clinux_last_name(int fd, char *name, size_t size)
{
    char path[4097];
    int length = clinux_path(fd, path, sizeof path);
    if (length < 0)
        return length;
    const char *last = strrchr(path, '/');
    last = last == NULL ? path : last + 1;
    if (strlen(last) >= size)
        return -ENAMETOOLONG;
    strcpy(name, last);
    return (int)strlen(name);
}

int clinux_change_mode(int fd, unsigned mode)
{
    RETURN_RETRYING(fchmodat(AT_FDCWD, name_of(fd).text, mode, 0));
}

int clinux_truncate_path(int fd, int64_t size)
{
    RETURN_RETRYING(truncate(name_of(fd).text, size));
}

int clinux_set_attribute(int fd, const char *name, const void *value, size_t size, int flags)
{
    RETURN_RETRYING(setxattr(name_of(fd).text, name, value, size, flags));
}

ssize_t clinux_get_attribute(int fd, const char *name, void *value, size_t size)
{
    RETURN_RETRYING(getxattr(name_of(fd).text, name, value, size));
}

ssize_t clinux_list_attributes(int fd, void *names, size_t size)
{
    RETURN_RETRYING(listxattr(name_of(fd).text, names, size));
}

int clinux_remove_attribute(int fd, const char *name)
{
    RETURN_RETRYING(removexattr(name_of(fd).text, name));
}

// MARK: By descriptor

int clinux_change_owner(int fd, unsigned user, unsigned group)
{
    RETURN_RETRYING(fchownat(fd, "", user, group, AT_EMPTY_PATH | AT_SYMLINK_NOFOLLOW));
}

int clinux_change_times(int fd, int64_t access, int64_t access_ns, int64_t modification,
                        int64_t modification_ns)
{
    struct timespec times[2] = {{access, access_ns}, {modification, modification_ns}};
    RETURN_RETRYING(utimensat(fd, "", times, AT_EMPTY_PATH | AT_SYMLINK_NOFOLLOW));
}

ssize_t clinux_read_link(int fd, void *target, size_t size)
{
    RETURN_RETRYING(readlinkat(fd, "", target, size));
}

int clinux_is_resident(void *base, size_t offset, size_t size)
{
    enum { PAGE = 4096, MOST = (1 << 20) / PAGE + 1 };
    size_t first = offset / PAGE * PAGE;
    size_t count = (offset + size - first + PAGE - 1) / PAGE;
    unsigned char pages[MOST];
    if (count > MOST || mincore((char *)base + first, count * PAGE, pages) < 0)
        return 0;
    for (size_t i = 0; i < count; i++)
        if ((pages[i] & 1) == 0)
            return 0;
    return 1;
}

int clinux_truncate(int fd, int64_t size)
{
    RETURN_RETRYING(ftruncate(fd, size));
}

int clinux_sync(int fd, int is_data_only)
{
    RETURN_RETRYING(is_data_only ? fdatasync(fd) : fsync(fd));
}

int clinux_sync_file_system(int fd)
{
    RETURN_RETRYING(syncfs(fd));
}

int clinux_flush(int fd)
{
    int copy = fcntl(fd, F_DUPFD_CLOEXEC, 0);
    if (copy < 0)
        return -errno;
    return close(copy) < 0 ? -errno : 0;
}

int64_t clinux_seek(int fd, int64_t offset, int whence)
{
    int64_t result = lseek(fd, offset, whence);
    return result < 0 ? -errno : result;
}

ssize_t clinux_copy_range(int from, int64_t from_offset, int to, int64_t to_offset, size_t size)
{
    RETURN_RETRYING(copy_file_range(from, &from_offset, to, &to_offset, size, 0));
}

ssize_t clinux_read_folder(int fd, void *buffer, size_t size)
{
    RETURN_RETRYING(syscall(SYS_getdents64, fd, buffer, size));
}

static struct flock flock_of(const struct clinux_lock *lock)
{
    return (struct flock){
        .l_type = (short)lock->type,
        .l_whence = SEEK_SET,
        .l_start = lock->start,
        .l_len = lock->length,
    };
}

int clinux_set_lock(int fd, const struct clinux_lock *lock)
{
    struct flock wanted = flock_of(lock);
    RETURN_RETRYING(fcntl(fd, F_OFD_SETLK, &wanted));
}

int clinux_find_lock(int fd, struct clinux_lock *lock)
{
    struct flock found = flock_of(lock);
    if (fcntl(fd, F_OFD_GETLK, &found) < 0)
        return -errno;
    *lock = (struct clinux_lock){found.l_start, found.l_len, found.l_type};
    return 0;
}

int clinux_lock_open_file(int fd, int operation)
{
    RETURN_RETRYING(flock(fd, operation));
}

int clinux_space(int fd, struct clinux_space *space)
{
    struct statfs found;
    if (fstatfs(fd, &found) < 0)
        return -errno;
    *space = (struct clinux_space){
        .blocks = found.f_blocks,
        .free_blocks = found.f_bfree,
        .available_blocks = found.f_bavail,
        .files = found.f_files,
        .free_files = found.f_ffree,
        .block_size = (uint32_t)found.f_bsize,
        .fragment_size = (uint32_t)(found.f_frsize != 0 ? found.f_frsize : found.f_bsize),
        .name_length = (uint32_t)found.f_namelen,
        .type = (uint32_t)found.f_type,
    };
    return 0;
}

// MARK: Changes by others

int clinux_inotify(void)
{
    int fd = inotify_init1(IN_NONBLOCK | IN_CLOEXEC);
    return fd < 0 ? -errno : fd;
}

int clinux_inotify_add(int inotify, int folder)
{
    int watch = inotify_add_watch(inotify, name_of(folder).text,
                                  CLINUX_INOTIFY_NAMES | CLINUX_INOTIFY_DATA | IN_ATTRIB |
                                      IN_EXCL_UNLINK | IN_ONLYDIR);
    return watch < 0 ? -errno : watch;
}

int clinux_inotify_remove(int inotify, int watch)
{
    return inotify_rm_watch(inotify, watch) < 0 ? -errno : 0;
}

// MARK: Limits

uint64_t clinux_descriptor_limit(void)
{
    struct rlimit limit;
    return getrlimit(RLIMIT_NOFILE, &limit) < 0 ? 1024 : limit.rlim_cur;
}

// MARK: Users

static int get_capabilities(struct __user_cap_data_struct *data)
{
    struct __user_cap_header_struct header = {_LINUX_CAPABILITY_VERSION_3, 0};
    return (int)syscall(SYS_capget, &header, data);
}

int clinux_may_set_users(void)
{
    struct __user_cap_data_struct data[2];
    unsigned needed = 1U << CAP_SETUID | 1U << CAP_SETGID | 1U << CAP_CHOWN | 1U << CAP_DAC_OVERRIDE;
    return geteuid() == 0 && get_capabilities(data) == 0 && (data[0].permitted & needed) == needed;
}

// Uses a capability that is permitted from now on, or does not.
static int set_effective(unsigned capability, int is_used)
{
    struct __user_cap_header_struct header = {_LINUX_CAPABILITY_VERSION_3, 0};
    struct __user_cap_data_struct data[2];
    if (get_capabilities(data) < 0)
        return -errno;
    data[0].effective &= ~capability;
    if (is_used)
        data[0].effective |= data[0].permitted & capability;
    return syscall(SYS_capset, &header, data) < 0 ? -errno : 0;
}

// With another file user than root a thread loses those capabilities that have to do with files,
// and gets them back afterwards. The one that passes over permissions is taken back at once, because
// the guest's kernel has checked them, and it knows all of the user's groups. Not so the right to
// keep the set-group bit, which the user need not have.
static int keep_access(void)
{
    return set_effective(1U << CAP_DAC_OVERRIDE, 1);
}

int clinux_may_keep_set_id(int may)
{
    return set_effective(1U << CAP_FSETID, may);
}

void clinux_set_mask(unsigned mask)
{
    umask((mode_t)mask);
}

int clinux_set_file_user(unsigned user, unsigned group)
{
    // The calls report no errors, but asking for nobody says who it is now.
    setfsgid(group);
    setfsuid(user);
    int error = (unsigned)setfsgid(~0U) != group || (unsigned)setfsuid(~0U) != user ? -EINVAL
                : user == 0                                                         ? 0
                                                                                    : keep_access();
    if (error != 0) {
        setfsuid(0);
        setfsgid(0);
    }
    return error;
}
