// What a disk image needs of Linux: vectored I/O with flags, holes, locks and block devices.
// Wrappers retry on EINTR and return -errno on failure.
#ifndef CLINUX_BLOCK_H
#define CLINUX_BLOCK_H

#include <stdint.h>
#include <sys/types.h>
#include <sys/uio.h>

#pragma clang assume_nonnull begin

static const int CLINUX_O_DIRECT = 040000;
static const int CLINUX_FALLOC_FL_KEEP_SIZE = 0x01;
static const int CLINUX_FALLOC_FL_PUNCH_HOLE = 0x02;
static const int CLINUX_FALLOC_FL_ZERO_RANGE = 0x10;
// pwritev2: the data is on stable storage when the call returns; the call must not block.
static const int CLINUX_RWF_DSYNC = 0x02;
static const int CLINUX_RWF_NOWAIT = 0x08;

// The most buffers in one call (UIO_MAXIOV).
static const int CLINUX_IOV_MAX = 1024;

// preadv2 and pwritev2.
ssize_t clinux_preadv(int fd, const struct iovec *parts, int count, int64_t offset, int flags);
ssize_t clinux_pwritev(int fd, const struct iovec *parts, int count, int64_t offset, int flags);

int clinux_fdatasync(int fd);
int clinux_fallocate(int fd, int mode, int64_t offset, int64_t length);

// Drops the content of a range of a block device (BLKDISCARD).
int clinux_block_discard(int fd, uint64_t offset, uint64_t length);

struct clinux_block_device {
    uint64_t size;               // bytes
    uint32_t logical_block_size; // bytes, and so on
    uint32_t physical_block_size;
    uint32_t minimum_io_size;
    uint32_t optimal_io_size;
    int32_t alignment_offset; // -1: misaligned
    int32_t is_read_only;
    int32_t can_discard;
};

// Describes the block device behind `fd`.
int clinux_block_describe(int fd, struct clinux_block_device *device);

// What O_DIRECT asks of buffer addresses and of file offsets. Both 0: direct I/O is impossible.
// -EOPNOTSUPP: the kernel or the file system does not say.
int clinux_direct_alignment(int fd, uint32_t *memory, uint32_t *offset);

// Locks the whole file for this open file description (F_OFD_SETLK), without waiting. The lock
// goes when the last copy of the descriptor is closed. -EAGAIN: somebody else holds it.
int clinux_lock_file(int fd, int exclusive);

// Gives the lock back at once. An io_uring keeps its files, and so their locks, for some time after
// it was closed.
void clinux_unlock_file(int fd);

// Lets a ring that was made disabled go (IORING_REGISTER_ENABLE_RINGS). Debian's liburing.so 2.3
// forgets to export its wrapper.
int clinux_io_uring_enable(int ring);

// 1 if the file lives in memory (tmpfs, ramfs, hugetlbfs), 0 if not.
int clinux_is_memory_file(int fd);

#pragma clang assume_nonnull end

#endif
