// Changes one file in all ways there are, in an order that a number determines, and compares it with
// what it must be: the idea of Apple's and NeXT's fsx.
//
//   fsx FILE SEED COUNT    COUNT operations; prints `clean`, or the first difference and what was
//                          done before
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

enum { LIMIT = 256 << 10, LARGEST = 64 << 10, HISTORY = 20 };

static unsigned char wanted[LIMIT], data[LIMIT];
static long size;
static const char *path;
static int fd, other;
static uint64_t state;
static char history[HISTORY][64];
static unsigned long done;

// xorshift64*
static uint32_t below(uint32_t limit)
{
    state ^= state >> 12;
    state ^= state << 25;
    state ^= state >> 27;
    return (uint32_t)((state * 0x2545f4914f6cdd1dULL >> 32) % limit);
}

static void fail(const char *what, long at)
{
    printf("%s at %ld, %s; size %ld, operation %lu\n", what, at, strerror(errno), size, done);
    for (unsigned long i = done < HISTORY ? 0 : done - HISTORY + 1; i <= done; i++)
        printf("%lu %s\n", i, history[i % HISTORY]);
    exit(1);
}

#define CHECK(condition, at) ((condition) ? (void)0 : fail(#condition, at))
#define NOTE(...) snprintf(history[done % HISTORY], sizeof history[0], __VA_ARGS__)

static void compare(const void *found, long at, long count)
{
    if (memcmp(found, wanted + at, (size_t)count) == 0)
        return;
    long i = 0;
    while (((const unsigned char *)found)[i] == wanted[at + i])
        i++;
    errno = 0;
    printf("%02x instead of %02x\n", ((const unsigned char *)found)[i], wanted[at + i]);
    fail("difference", at + i);
}

static void fill(long at, long count)
{
    for (long i = 0; i < count; i++)
        data[i] = (unsigned char)(done + (unsigned long)(at + i) * 7 + below(2));
}

// The file has become longer: what lies between is zeroes.
static void grow(long end)
{
    if (end > size)
        size = end;
}

static void do_write(long at, long count)
{
    NOTE("write %ld+%ld", at, count);
    fill(at, count);
    CHECK(pwrite(fd, data, (size_t)count, at) == count, at);
    memcpy(wanted + at, data, (size_t)count);
    grow(at + count);
}

static void do_append(long count)
{
    NOTE("append %ld", count);
    if (size + count > LIMIT)
        return;
    int end = open(path, O_WRONLY | O_APPEND);
    CHECK(end >= 0, size);
    fill(size, count);
    CHECK(write(end, data, (size_t)count) == count, size);
    close(end);
    memcpy(wanted + size, data, (size_t)count);
    size += count;
}

static void do_read(int file, long at, long count)
{
    NOTE("read %ld+%ld", at, count);
    long there = at >= size ? 0 : count < size - at ? count : size - at;
    memset(data, 0xee, (size_t)count);
    CHECK(pread(file, data, (size_t)count, at) == there, at);
    compare(data, at, there);
}

static void do_truncate(long length, int by_path)
{
    NOTE("truncate %ld", length);
    CHECK((by_path ? truncate(path, length) : ftruncate(fd, length)) == 0, length);
    if (length < size)
        memset(wanted + length, 0, (size_t)(size - length));
    size = length;
}

static void do_map(long at, long count, int writes)
{
    NOTE("map %ld+%ld %s", at, count, writes ? "to write" : "to read");
    if (at >= size)
        return;
    count = count < size - at ? count : size - at;
    long page = at & ~4095L;
    size_t length = (size_t)(at - page + count);
    unsigned char *map = mmap(NULL, length, PROT_READ | (writes ? PROT_WRITE : 0), MAP_SHARED, fd, page);
    // Not of files that are not cached, before Linux 6.6.
    if (map == MAP_FAILED && errno == ENODEV)
        return;
    CHECK(map != MAP_FAILED, at);
    if (writes) {
        fill(at, count);
        memcpy(map + (at - page), data, (size_t)count);
        memcpy(wanted + at, data, (size_t)count);
        // With the cache's own writing, or with this.
        if (below(2))
            CHECK(msync(map, length, MS_SYNC) == 0, at);
    } else {
        compare(map + (at - page), at, count);
    }
    munmap(map, length);
}

// How the host's file system may not be able to do it.
static int is_missing(int result)
{
    return result < 0 && (errno == EOPNOTSUPP || errno == EINVAL);
}

static void do_allocate(long at, long count, int mode)
{
    NOTE("fallocate %d %ld+%ld", mode, at, count);
    int result = fallocate(fd, mode, at, count);
    if (is_missing(result))
        return;
    CHECK(result == 0, at);
    if ((mode & FALLOC_FL_KEEP_SIZE) == 0)
        grow(at + count);
    if ((mode & (FALLOC_FL_PUNCH_HOLE | FALLOC_FL_ZERO_RANGE)) != 0 && at < size)
        memset(wanted + at, 0, (size_t)(count < size - at ? count : size - at));
}

static void do_copy(long from, long to, long count)
{
    NOTE("copy %ld to %ld+%ld", from, to, count);
    if (from >= size)
        return;
    count = count < size - from ? count : size - from;
    if (labs(from - to) < count)
        return;
    off_t source = from, target = to;
    ssize_t copied = copy_file_range(fd, &source, fd, &target, (size_t)count, 0);
    if (copied < 0 && (errno == EXDEV || errno == EOPNOTSUPP))
        return;
    CHECK(copied > 0 && copied <= count, from);
    memcpy(wanted + to, wanted + from, (size_t)copied);
    grow(to + copied);
}

static void reopen(void)
{
    NOTE("reopen");
    close(fd);
    fd = open(path, O_RDWR);
    CHECK(fd >= 0, 0);
}

static void check_all(void)
{
    struct stat s;
    CHECK(fstat(fd, &s) == 0 && s.st_size == size, s.st_size);
    CHECK(pread(fd, data, LIMIT, 0) == size, size);
    compare(data, 0, size);
}

static void step(void)
{
    long at = below(LIMIT - LARGEST), count = 1 + below(below(4) ? 5000 : LARGEST);
    switch (below(15)) {
    case 0: case 1: case 2: return do_write(at, count);
    case 3: case 4: return do_read(fd, at, count);
    case 5: return do_read(other, at, count);
    case 6: return do_truncate(below(LIMIT), (int)below(2));
    case 7: case 8: return do_map(at, count, 1);
    case 9: return do_map(at, count, 0);
    case 10: return do_append(count);
    case 11: return do_allocate(at, count, below(2) ? FALLOC_FL_KEEP_SIZE : 0);
    case 12:
        return do_allocate(at, count, FALLOC_FL_KEEP_SIZE | (below(2) ? FALLOC_FL_PUNCH_HOLE
                                                                     : FALLOC_FL_ZERO_RANGE));
    case 13: return do_copy(below(LIMIT - LARGEST), at, count);
    default: break;
    }
    switch (below(4)) {
    case 0: return reopen();
    case 1: NOTE("fsync"); CHECK(fsync(fd) == 0, 0); return;
    case 2: NOTE("drop"); posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED); return;
    default: NOTE("check"); return check_all();
    }
}

int main(int argc, char **argv)
{
    if (argc != 4)
        return 2;
    path = argv[1];
    state = strtoull(argv[2], NULL, 0) * 2 + 1;
    fd = open(path, O_RDWR | O_CREAT | O_TRUNC, 0644);
    other = open(path, O_RDONLY);
    CHECK(fd >= 0 && other >= 0, 0);
    for (unsigned long count = strtoul(argv[3], NULL, 0); done < count; done++)
        step();
    NOTE("end");
    check_all();
    reopen();
    check_all();
    unlink(path);
    printf("clean\n");
    return 0;
}
