// Connects its standard input and output with a socket between virtual machine and host.
//
//   vsock PORT       connects to a port of the host
//   vsock -l PORT    waits for one connection from the host
//
// Input's end is passed on; it ends when the other side has ended as well.
#include <linux/vm_sockets.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

static void fail(const char *what)
{
    perror(what);
    exit(1);
}

// Copies what there is; returns 0 at the end.
static int copy(int from, int to)
{
    static char buffer[1 << 16];
    ssize_t count = read(from, buffer, sizeof buffer);
    if (count < 0)
        fail("read");
    for (ssize_t done = 0; done < count;) {
        ssize_t written = write(to, buffer + done, count - done);
        if (written < 0)
            fail("write");
        done += written;
    }
    return count > 0;
}

int main(int argc, char **argv)
{
    int listens = argc == 3 && strcmp(argv[1], "-l") == 0;
    if (argc != 2 && !listens)
        return 2;
    struct sockaddr_vm address = {
        .svm_family = AF_VSOCK,
        .svm_cid = listens ? VMADDR_CID_ANY : VMADDR_CID_HOST,
        .svm_port = strtoul(argv[argc - 1], NULL, 10),
    };
    int fd = socket(AF_VSOCK, SOCK_STREAM, 0);
    if (fd < 0)
        fail("socket");
    if (listens) {
        if (bind(fd, (struct sockaddr *)&address, sizeof address) < 0 || listen(fd, 1) < 0)
            fail("listen");
        fd = accept(fd, NULL, NULL);
        if (fd < 0)
            fail("accept");
    } else if (connect(fd, (struct sockaddr *)&address, sizeof address) < 0) {
        fail("connect");
    }
    struct pollfd both[] = {{.fd = 0, .events = POLLIN}, {.fd = fd, .events = POLLIN}};
    while (both[0].fd >= 0 || both[1].fd >= 0) {
        if (poll(both, 2, -1) < 0)
            fail("poll");
        if (both[0].revents != 0 && !copy(0, fd)) {
            shutdown(fd, SHUT_WR);
            both[0].fd = -1;
        }
        if (both[1].revents != 0 && !copy(fd, 1))
            both[1].fd = -1;
    }
    return 0;
}
