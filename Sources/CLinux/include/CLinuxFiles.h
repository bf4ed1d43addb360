// What a shared folder needs of Linux: files that are named by a descriptor of their folder and a
// name, or by a descriptor of their own (O_PATH) alone. Wrappers retry on EINTR where that is safe,
// and return -errno on failure.
#ifndef CLINUX_FILES_H
#define CLINUX_FILES_H

#include <stdint.h>
#include <sys/types.h>

#pragma clang assume_nonnull begin

static const int CLINUX_O_PATH = 010000000;
static const int CLINUX_O_TMPFILE = 020200000;
static const int CLINUX_O_NOATIME = 01000000;

// Opens a folder to be shared. With the right to do so (CAP_SYS_ADMIN) it becomes the root of a
// mount of its own, above which there is nothing, and on which devices cannot be opened and
// programs not be run. Otherwise it is a descriptor like any other.
int clinux_open_share(const char *path, int is_read_only);

// Opens /proc for `clinux_enter_descriptors`; read-only, if the process has the right to say so.
int clinux_open_proc(void);

// Gives the calling thread a working folder and a umask of its own: the folder is that of the
// process's own descriptors below `proc`, and the mask is empty. The functions below that say so
// work in such threads only. A process that may set its users also gives up all groups.
int clinux_enter_descriptors(int proc);

// MARK: By folder and name, which is no path. Links are not followed.

int clinux_open_beneath(int folder, const char *name, int flags, unsigned mode);
// The same for a name without a slash, which takes the kernel less.
int clinux_open_name(int folder, const char *name, int flags, unsigned mode);
int clinux_make_node(int folder, const char *name, unsigned mode, unsigned major, unsigned minor);
int clinux_make_folder(int folder, const char *name, unsigned mode);
int clinux_make_symlink(const char *target, int folder, const char *name);
int clinux_remove(int folder, const char *name, int is_folder);
int clinux_rename(int folder, const char *name, int new_folder, const char *new_name,
                  unsigned flags);
// Gives the file behind `fd` another name. In threads that have entered their descriptors.
int clinux_link(int fd, int folder, const char *name);

struct clinux_file_status {
    uint64_t inode, size, blocks, mount, attributes, attributes_mask;
    int64_t atime, mtime, ctime, btime; // seconds
    uint32_t atime_ns, mtime_ns, ctime_ns, btime_ns;
    uint32_t mask, mode, links, user, group, block_size;
    uint32_t major, minor;         // the file system's device
    uint32_t node_major, node_minor; // what a device's node stands for
};

static const uint32_t CLINUX_STATUS_HAS_BTIME = 0x800;

// An empty name means the folder itself, which may be any file then.
int clinux_file_status(int folder, const char *name, struct clinux_file_status *status);

// Whether a descriptor is of the file with this number.
int clinux_is_file(int fd, uint64_t inode, uint32_t major, uint32_t minor);

// MARK: By descriptor, in threads that have entered their descriptors

// What the file system itself calls a file, wherever its names are.
enum { CLINUX_HANDLE_SIZE = 128 };
struct clinux_file_handle {
    uint32_t size;
    int32_t type;
    uint8_t bytes[CLINUX_HANDLE_SIZE];
};

int clinux_get_handle(int fd, struct clinux_file_handle *handle);
// Opens what has this handle. `mount` is any open file (not O_PATH) of the file system. Takes the
// right to look up what it likes (CAP_DAC_READ_SEARCH) in the host's own user namespace.
int clinux_open_handle(int mount, const struct clinux_file_handle *handle, int flags);

// Opens a file again.
int clinux_reopen(int fd, int flags);
// The path of a file as the kernel knows it: from the root of its mount on if that is nowhere
// attached, and with more behind it if the file was removed. Returns its length.
int clinux_path(int fd, char *path, size_t size);
// The last part of the path by which a file was opened or has been moved since, as far as the kernel
// knows; a file that was removed has one that stands for nothing. Returns its length.
int clinux_last_name(int fd, char *name, size_t size);
int clinux_change_mode(int fd, unsigned mode);
int clinux_truncate_path(int fd, int64_t size);
int clinux_set_attribute(int fd, const char *name, const void *value, size_t size, int flags);
// A size of 0 asks for the size that is needed.
ssize_t clinux_get_attribute(int fd, const char *name, void *_Nullable value, size_t size);
ssize_t clinux_list_attributes(int fd, void *_Nullable names, size_t size);
int clinux_remove_attribute(int fd, const char *name);

// MARK: By descriptor

int clinux_change_owner(int fd, unsigned user, unsigned group);
// Nanoseconds may be CLINUX_UTIME_NOW or CLINUX_UTIME_OMIT.
static const int64_t CLINUX_UTIME_NOW = (1l << 30) - 1l;
static const int64_t CLINUX_UTIME_OMIT = (1l << 30) - 2l;
int clinux_change_times(int fd, int64_t access, int64_t access_ns, int64_t modification,
                        int64_t modification_ns);
ssize_t clinux_read_link(int fd, void *target, size_t size);
// Whether the memory that a part of a mapped file takes is there, so that no access to it waits. The
// part has at most 1 MiB.
int clinux_is_resident(void *base, size_t offset, size_t size);
int clinux_truncate(int fd, int64_t size);
int clinux_sync(int fd, int is_data_only);
int clinux_sync_file_system(int fd);
// What close(2) says of a file, without closing it.
int clinux_flush(int fd);
int64_t clinux_seek(int fd, int64_t offset, int whence);
ssize_t clinux_copy_range(int from, int64_t from_offset, int to, int64_t to_offset, size_t size);
// getdents64(2)
ssize_t clinux_read_folder(int fd, void *buffer, size_t size);

// A record lock (fcntl(2)). Types are F_RDLCK, F_WRLCK and F_UNLCK; a length of 0 leads to the end.
struct clinux_lock {
    int64_t start, length;
    int type;
};

// Sets or takes back a lock of the open file (F_OFD_SETLK), without waiting.
int clinux_set_lock(int fd, const struct clinux_lock *lock);
// Finds a lock of others that is in the way of `lock`, which becomes that one, or of type F_UNLCK.
int clinux_find_lock(int fd, struct clinux_lock *lock);
// flock(2)
int clinux_lock_open_file(int fd, int operation);

struct clinux_space {
    uint64_t blocks, free_blocks, available_blocks, files, free_files;
    uint32_t block_size, fragment_size, name_length;
    uint32_t type; // as in <linux/magic.h>
};

int clinux_space(int fd, struct clinux_space *space);

// MARK: Changes by others (inotify(7))

// Bits of events: a name has come, gone or another meaning; data has changed; events were lost; a
// folder is not watched any more. Of attributes there are events with neither.
static const uint32_t CLINUX_INOTIFY_NAMES = 0x3c0;
static const uint32_t CLINUX_INOTIFY_DATA = 0x2;
static const uint32_t CLINUX_INOTIFY_LOSS = 0x4000;
static const uint32_t CLINUX_INOTIFY_END = 0x8000;

// Returns a descriptor to read events from, which does not wait.
int clinux_inotify(void);
// Watches an open folder, in a thread that has entered its descriptors. Returns the watch's number.
int clinux_inotify_add(int inotify, int folder);
int clinux_inotify_remove(int inotify, int watch);

// MARK: Limits

// How many descriptors this process may have open.
uint64_t clinux_descriptor_limit(void);

// MARK: Users

// Whether this process may give files to others.
int clinux_may_set_users(void);
// What the calling thread creates from now on belongs to this user and group, as if they did it,
// but permissions were checked already. 0 and 0 go back to what was before.
int clinux_set_file_user(unsigned user, unsigned group);
// Gives the calling thread the right to keep set-ID bits of what it changes, or takes it away.
int clinux_may_keep_set_id(int may);
// What is taken from the mode of what the calling thread creates.
void clinux_set_mask(unsigned mask);

#pragma clang assume_nonnull end

#endif
