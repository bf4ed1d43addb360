// Works with files without end, and looks whether everything is as it must be after each step.
//
//   fswork FOLDER COUNT [named]
//                          COUNT processes, each in a folder of its own below FOLDER, until there is
//                          a file FOLDER/stop; if named, no file is open that has no name
//
// Prints `clean ROUNDS`, or one line for each thing that is wrong.
#define _GNU_SOURCE
#include <dirent.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "need.h"

enum { PIECE = 7000, PIECES = 9, SIZE = PIECE * PIECES };

static unsigned worker, round_number;
static int named;

static void print_place(void) { printf("worker %u round %u", worker, round_number); }

static void check(int fd, const char *wanted)
{
    static char found[SIZE + 1];
    size_t done = 0;
    ssize_t count;
    while ((count = pread(fd, found + done, sizeof found - done, (off_t)done)) > 0)
        done += (size_t)count;
    NEED(count == 0);
    errno = 0;
    NEED(done == SIZE);
    NEED(memcmp(found, wanted, SIZE) == 0);
}

static unsigned entries(DIR *folder)
{
    unsigned count = 0;
    rewinddir(folder);
    errno = 0;
    while (readdir(folder) != NULL)
        count++;
    NEED(errno == 0);
    return count;
}

static void links(const char *bytes)
{
    struct stat status;
    char target[20] = "";
    NEED(link("new", "second") == 0);
    NEED(stat("new", &status) == 0 && status.st_nlink == 2);
    NEED(link("new", "second") < 0 && errno == EEXIST);
    NEED(symlink("second", "soft") == 0);
    NEED(readlink("soft", target, sizeof target) == 6 && memcmp(target, "second", 6) == 0);
    NEED(unlink("new") == 0);
    NEED(unlink("new") < 0 && errno == ENOENT);
    int fd = open("soft", O_RDONLY);
    NEED(fd >= 0);
    check(fd, bytes);
    NEED(fstat(fd, &status) == 0 && status.st_nlink == 1);
    NEED(close(fd) == 0);
    NEED(unlink("soft") == 0);
    NEED(rename("second", "new") == 0);
}

static void folders(DIR *here)
{
    unsigned before = entries(here);
    char name[20];
    for (int i = 0; i < 5; i++) {
        snprintf(name, sizeof name, "d%d", i);
        NEED(mkdir(name, 0755) == 0);
        NEED(mkdir(name, 0755) < 0 && errno == EEXIST);
    }
    NEED(entries(here) == before + 5);
    NEED(rename("d0", "d5") == 0);
    NEED(mkdir("d5/in", 0700) == 0);
    NEED(rmdir("d5") < 0 && errno == ENOTEMPTY);
    NEED(rename("d5/in", "d1/in") == 0);
    NEED(rmdir("d1/in") == 0);
    for (int i = 1; i <= 5; i++) {
        snprintf(name, sizeof name, "d%d", i);
        NEED(rmdir(name) == 0);
    }
    NEED(entries(here) == before);
}

static void work(int hidden, DIR *here)
{
    static char bytes[SIZE], other[SIZE];
    struct stat status;
    fill(bytes, SIZE, round_number * 31 + worker);
    fill(other, SIZE, round_number * 37 + worker + 1);
    int fd = open("file", O_RDWR | O_CREAT | O_EXCL, 0444);
    NEED(fd >= 0);
    for (int i = 0; i < PIECES; i++)
        NEED(pwrite(fd, bytes + i * PIECE, PIECE, i * PIECE) == PIECE);
    NEED(fsync(fd) == 0);
    check(fd, bytes);
    NEED(close(fd) == 0);
    NEED(open("file", O_RDWR | O_CREAT | O_EXCL, 0644) < 0 && errno == EEXIST);
    NEED(rename("file", "new") == 0);
    NEED(stat("file", &status) < 0 && errno == ENOENT);
    links(bytes);
    fd = open("log", O_WRONLY | O_CREAT | O_APPEND, 0644);
    NEED(fd >= 0);
    for (int i = 0; i < PIECES; i++)
        NEED(write(fd, other + i * PIECE, PIECE) == PIECE);
    NEED(close(fd) == 0);
    NEED(renameat2(AT_FDCWD, "log", AT_FDCWD, "new", RENAME_EXCHANGE) == 0);
    fd = open("new", O_RDONLY);
    NEED(fd >= 0);
    check(fd, other);
    // A file without a name stays what it is.
    if (!named) {
        NEED(unlink("new") == 0);
        NEED(fstat(fd, &status) == 0 && status.st_nlink == 0);
    }
    folders(here);
    check(fd, other);
    NEED(close(fd) == 0);
    if (named)
        NEED(unlink("new") == 0);
    NEED(pwrite(hidden, bytes, SIZE, 0) == SIZE);
    check(hidden, bytes);
    NEED(chmod("log", 0600) == 0 && truncate("log", 10) == 0);
    NEED(stat("log", &status) == 0 && status.st_size == 10 && (status.st_mode & 0777) == 0600);
    NEED(unlink("log") == 0);
}

static void run(const char *folder)
{
    char path[4096];
    snprintf(path, sizeof path, "%s/w%u", folder, worker);
    NEED(mkdir(path, 0755) == 0);
    NEED(chdir(path) == 0);
    DIR *here = opendir(".");
    NEED(here != NULL);
    int hidden = open("hidden", O_RDWR | O_CREAT | O_EXCL, 0600);
    NEED(hidden >= 0);
    if (!named)
        NEED(unlink("hidden") == 0);
    while (access("../stop", F_OK) < 0) {
        round_number++;
        work(hidden, here);
    }
    if (named)
        NEED(unlink("hidden") == 0);
    NEED(entries(here) == 2);
    printf("clean %u\n", round_number);
    exit(0);
}

int main(int argc, char **argv)
{
    named = argc == 4 && strcmp(argv[3], "named") == 0;
    if (argc != 3 && !named)
        return 2;
    setvbuf(stdout, NULL, _IOLBF, 0);
    unsigned count = (unsigned)atoi(argv[2]);
    for (worker = 1; worker <= count; worker++)
        if (fork() == 0)
            run(argv[1]);
    int status, result = 0;
    while (wait(&status) > 0)
        if (status != 0)
            result = 1;
    return result;
}
