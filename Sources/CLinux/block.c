#define _GNU_SOURCE
#include "CLinux.h"

#include <fcntl.h>
#include <linux/fs.h>
#include <linux/io_uring.h>
#include <linux/magic.h>

#include <string.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <sys/vfs.h>
#include <unistd.h>

#define RETRY(result, call)                                                                        \
    do                                                                                             \
        result = call;                                                                             \
    while (result < 0 && errno == EINTR)

ssize_t clinux_preadv(int fd, const struct iovec *parts, int count, int64_t offset, int flags)
{
    ssize_t result;
    // One part takes less to check.
    if (count == 1 && flags == 0)
        RETRY(result, pread(fd, parts->iov_base, parts->iov_len, offset));
    else
        RETRY(result, preadv2(fd, parts, count, offset, flags));
    return result < 0 ? -errno : result;
}

ssize_t clinux_pwritev(int fd, const struct iovec *parts, int count, int64_t offset, int flags)
{
    ssize_t result;
    // One part takes less to check.
    if (count == 1 && flags == 0)
        RETRY(result, pwrite(fd, parts->iov_base, parts->iov_len, offset));
    else
        RETRY(result, pwritev2(fd, parts, count, offset, flags));
    return result < 0 ? -errno : result;
}

int clinux_fdatasync(int fd)
{
    int result;
    RETRY(result, fdatasync(fd));
    return result < 0 ? -errno : 0;
}

int clinux_fallocate(int fd, int mode, int64_t offset, int64_t length)
{
    int result;
    RETRY(result, fallocate(fd, mode, offset, length));
    return result < 0 ? -errno : 0;
}

int clinux_block_discard(int fd, uint64_t offset, uint64_t length)
{
    uint64_t range[2] = {offset, length};
    int result;
    RETRY(result, ioctl(fd, BLKDISCARD, range));
    return result < 0 ? -errno : 0;
}

// Asks for a piece that no device can discard, because it begins inside a block: a device that
// knows of no discards says so first.
static int knows_discard(int fd)
{
    uint64_t range[2] = {1, 0};
    return ioctl(fd, BLKDISCARD, range) < 0 && errno == EINVAL;
}

int clinux_block_describe(int fd, struct clinux_block_device *device)
{
    int logical = 0;
    unsigned physical = 0, minimum = 0, optimal = 0;
    int alignment = 0, read_only = 0;
    memset(device, 0, sizeof *device);
    if (ioctl(fd, BLKGETSIZE64, &device->size) < 0 || ioctl(fd, BLKSSZGET, &logical) < 0)
        return -errno;
    // The rest is advice, which a device need not have.
    if (ioctl(fd, BLKPBSZGET, &physical) < 0)
        physical = (unsigned)logical;
    if (ioctl(fd, BLKIOMIN, &minimum) < 0)
        minimum = 0;
    if (ioctl(fd, BLKIOOPT, &optimal) < 0)
        optimal = 0;
    if (ioctl(fd, BLKALIGNOFF, &alignment) < 0)
        alignment = 0;
    if (ioctl(fd, BLKROGET, &read_only) < 0)
        read_only = 0;
    device->logical_block_size = (uint32_t)logical;
    device->physical_block_size = physical;
    device->minimum_io_size = minimum;
    device->optimal_io_size = optimal;
    device->alignment_offset = alignment;
    device->is_read_only = read_only != 0;
    device->can_discard = knows_discard(fd);
    return 0;
}

int clinux_direct_alignment(int fd, uint32_t *memory, uint32_t *offset)
{
#ifdef STATX_DIOALIGN
    struct statx status;
    memset(&status, 0, sizeof status);
    if (syscall(SYS_statx, fd, "", AT_EMPTY_PATH, STATX_DIOALIGN, &status) < 0)
        return errno == ENOSYS ? -EOPNOTSUPP : -errno;
    if (!(status.stx_mask & STATX_DIOALIGN))
        return -EOPNOTSUPP;
    *memory = status.stx_dio_mem_align;
    *offset = status.stx_dio_offset_align;
    return 0;
#else
    return -EOPNOTSUPP;
#endif
}

static int set_lock(int fd, short type)
{
    struct flock lock = {.l_type = type, .l_whence = SEEK_SET, .l_start = 0, .l_len = 0};
    int result;
    RETRY(result, fcntl(fd, F_OFD_SETLK, &lock));
    if (result == 0)
        return 0;
    return errno == EACCES ? -EAGAIN : -errno;
}

int clinux_lock_file(int fd, int exclusive)
{
    return set_lock(fd, exclusive ? F_WRLCK : F_RDLCK);
}

void clinux_unlock_file(int fd)
{
    (void)set_lock(fd, F_UNLCK);
}

int clinux_io_uring_enable(int ring)
{
    long result = syscall(SYS_io_uring_register, ring, IORING_REGISTER_ENABLE_RINGS, NULL, 0);
    return result < 0 ? -errno : 0;
}

int clinux_is_memory_file(int fd)
{
    struct statfs status;
    if (fstatfs(fd, &status) < 0)
        return -errno;
    return status.f_type == TMPFS_MAGIC || status.f_type == RAMFS_MAGIC ||
           status.f_type == HUGETLBFS_MAGIC;
}
