// Keeps files of all kinds open, and looks with every step whether they still are what they were.
//
//   held FOLDER PROGRESS [named]
//                          works in FOLDER until there is a file FOLDER/stop, and writes the number of
//                          steps to the file PROGRESS; if named, no file is open that has no name
//
// A request that is lost or done twice shows: names are made and removed with O_EXCL, a file is only
// appended to, and a folder is read piece by piece. Locks of records and of a file are held all the
// time; a child looks whether somebody else can have them. Prints `clean STEPS`, or what is wrong.
#define _GNU_SOURCE
#include <dirent.h>
#include <fcntl.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "need.h"

enum { RECORD = 96, RECORDS = 300, ENTRIES = 60 };

static unsigned step;

static void print_place(void) { printf("step %u", step); }

static int make(const char *name, int flags, mode_t mode)
{
    int fd = open(name, flags | O_CREAT | O_EXCL, mode);
    NEED(fd >= 0);
    return fd;
}

// A file with two descriptors: what is written by one is read by the other.
struct both {
    int writer, reader;
};

static struct both make_both(const char *name)
{
    struct both both = {make(name, O_RDWR, 0444), open(name, O_RDONLY)};
    NEED(both.reader >= 0);
    return both;
}

static void use_both(struct both both)
{
    char written[RECORD], found[RECORD];
    off_t place = (off_t)(step % RECORDS) * RECORD, before = (off_t)((step - 1) % RECORDS) * RECORD;
    fill(written, RECORD, step);
    NEED(pwrite(both.writer, written, RECORD, place) == RECORD);
    NEED(pread(both.reader, found, RECORD, place) == RECORD);
    NEED(memcmp(found, written, RECORD) == 0);
    if (step == 1)
        return;
    fill(written, RECORD, step - 1);
    NEED(pread(both.reader, found, RECORD, before) == RECORD);
    NEED(memcmp(found, written, RECORD) == 0);
}

static void use_log(int log)
{
    char record[RECORD];
    struct stat status;
    fill(record, RECORD, step);
    NEED(write(log, record, RECORD) == RECORD);
    NEED(fstat(log, &status) == 0);
    errno = 0;
    NEED(status.st_size == (off_t)step * RECORD);
}

static void use_names(void)
{
    struct stat status;
    int fd = make("new", O_WRONLY, 0600);
    NEED(close(fd) == 0);
    NEED(rename("new", "other") == 0);
    NEED(stat("new", &status) < 0 && errno == ENOENT);
    NEED(mkdir("folder", 0755) == 0);
    NEED(unlink("other") == 0);
    NEED(rmdir("folder") == 0);
}

// The system call itself: the C library would read all at once.
static void use_folder(int folder)
{
    static char seen[ENTRIES];
    static unsigned count;
    char buffer[1024];
    long size = syscall(SYS_getdents64, folder, buffer, sizeof buffer);
    NEED(size >= 0);
    for (long at = 0; at < size;) {
        struct dirent64 *entry = (struct dirent64 *)(buffer + at);
        unsigned number;
        if (sscanf(entry->d_name, "entry%u", &number) == 1) {
            errno = 0;
            NEED(number < ENTRIES && !seen[number]);
            seen[number] = 1;
            count++;
        }
        at += entry->d_reclen;
    }
    if (size == 0) {
        errno = 0;
        NEED(count == ENTRIES);
        memset(seen, 0, sizeof seen);
        count = 0;
        NEED(lseek(folder, 0, SEEK_SET) == 0);
    }
}

static int lock_part(int fd, short type, off_t start, off_t length)
{
    struct flock part = {.l_type = type, .l_whence = SEEK_SET, .l_start = start, .l_len = length};
    return fcntl(fd, F_SETLK, &part);
}

static void use_locks(int parts)
{
    NEED(lock_part(parts, F_WRLCK, 1000 + step % 100, 10) == 0);
    if (step % 8 == 1) {
        pid_t child = fork();
        NEED(child >= 0);
        if (child == 0) {
            int part = open("parts", O_RDWR), whole = open("whole", O_RDWR);
            NEED(part >= 0 && whole >= 0);
            NEED(lock_part(part, F_RDLCK, 50, 1) < 0 && errno == EAGAIN);
            NEED(lock_part(part, F_RDLCK, 250, 1) == 0);
            NEED(lock_part(part, F_WRLCK, 200, 1) < 0 && errno == EAGAIN);
            NEED(flock(whole, LOCK_SH | LOCK_NB) < 0 && errno == EAGAIN);
            _exit(0);
        }
        int status;
        NEED(waitpid(child, &status, 0) == child && status == 0);
    }
    NEED(lock_part(parts, F_UNLCK, 1000 + step % 100, 10) == 0);
}

static void use_mapping(char *mapping, int fd)
{
    char found[RECORD];
    if (mapping == MAP_FAILED)
        return;
    fill(mapping, RECORD, step);
    NEED(msync(mapping, 4096, MS_SYNC) == 0);
    NEED(pread(fd, found, RECORD, 0) == RECORD);
    NEED(memcmp(found, mapping, RECORD) == 0);
}

static void tell(const char *progress)
{
    char text[20];
    int fd = open(progress, O_WRONLY | O_CREAT, 0644);
    NEED(fd >= 0);
    int count = snprintf(text, sizeof text, "%u\n", step);
    NEED(write(fd, text, (size_t)count) == count);
    NEED(close(fd) == 0);
}

int main(int argc, char **argv)
{
    int named = argc == 4 && strcmp(argv[3], "named") == 0;
    if (argc != 3 && !named)
        return 2;
    NEED(chdir(argv[1]) == 0);
    NEED(mkdir("held", 0755) == 0 && chdir("held") == 0);
    NEED(mkdir("many", 0755) == 0 && mkdir("there", 0755) == 0);
    for (int i = 0; i < ENTRIES; i++) {
        char name[30];
        snprintf(name, sizeof name, "many/entry%d", i);
        NEED(close(make(name, O_WRONLY, 0644)) == 0);
    }
    int folder = open("many", O_RDONLY | O_DIRECTORY);
    NEED(folder >= 0);
    struct both plain = make_both("plain"), moved = make_both("moved"), hidden = make_both("hidden");
    NEED(rename("moved", "there/elsewhere") == 0);
    if (!named)
        NEED(unlink("hidden") == 0);
    int log = make("log", O_WRONLY | O_APPEND, 0644);
    int parts = make("parts", O_RDWR, 0644), whole = make("whole", O_RDWR, 0644);
    NEED(lock_part(parts, F_WRLCK, 0, 100) == 0);
    NEED(lock_part(parts, F_RDLCK, 200, 100) == 0);
    NEED(flock(whole, LOCK_EX) == 0);
    int mapped = make("mapped", O_RDWR, 0644);
    NEED(ftruncate(mapped, 4096) == 0);
    char *mapping = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, mapped, 0);
    // Where the guest keeps no data, there are no shared mappings.
    NEED(mapping != MAP_FAILED || errno == ENODEV);
    while (access("../stop", F_OK) < 0) {
        step++;
        use_both(plain);
        use_both(moved);
        use_both(hidden);
        use_log(log);
        use_names();
        use_folder(folder);
        use_locks(parts);
        use_mapping(mapping, mapped);
        tell(argv[2]);
    }
    printf("clean %u\n", step);
    return 0;
}
