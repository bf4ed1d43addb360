// Runs a program with a file locked, like flock(1), which the guest's busybox does not have.
//
//   flock [-n] FILE PROGRAM [ARGUMENT...]    -n: fail with 1 instead of waiting
#include <fcntl.h>
#include <string.h>
#include <sys/file.h>
#include <sys/wait.h>
#include <unistd.h>

int main(int argc, char **argv)
{
    int fails = argc > 1 && strcmp(argv[1], "-n") == 0;
    if (argc < fails + 3)
        return 2;
    int fd = open(argv[fails + 1], O_RDWR | O_CREAT | O_CLOEXEC, 0644);
    if (fd < 0)
        return 2;
    if (flock(fd, LOCK_EX | (fails ? LOCK_NB : 0)) < 0)
        return 1;
    pid_t process = fork();
    if (process == 0) {
        execvp(argv[fails + 2], argv + fails + 2);
        _exit(127);
    }
    int status;
    return waitpid(process, &status, 0) == process && WIFEXITED(status) ? WEXITSTATUS(status) : 2;
}
