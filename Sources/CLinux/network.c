#define _GNU_SOURCE
#include "CLinux.h"

#include <fcntl.h>
#include <linux/if_tun.h>
#include <net/if.h>
#include <sched.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

ssize_t clinux_send_parts(int socket, const struct iovec *parts, int count)
{
    struct msghdr message = {.msg_iov = (struct iovec *)parts, .msg_iovlen = (size_t)count};
    ssize_t sent;
    do
        sent = sendmsg(socket, &message, MSG_NOSIGNAL | MSG_DONTWAIT);
    while (sent < 0 && errno == EINTR);
    return sent < 0 ? -errno : sent;
}

ssize_t clinux_receive_parts(int socket, const struct iovec *parts, int count)
{
    struct msghdr message = {.msg_iov = (struct iovec *)parts, .msg_iovlen = (size_t)count};
    ssize_t received;
    do
        received = recvmsg(socket, &message, MSG_DONTWAIT);
    while (received < 0 && errno == EINTR);
    return received < 0 ? -errno : received;
}

ssize_t clinux_peek(int socket, void *data, size_t length)
{
    struct iovec part = {.iov_base = data, .iov_len = length};
    struct msghdr message = {.msg_iov = &part, .msg_iovlen = 1};
    ssize_t received;
    do
        received = recvmsg(socket, &message, MSG_DONTWAIT | MSG_PEEK);
    while (received < 0 && errno == EINTR);
    return received < 0 ? -errno : received;
}

int clinux_unix_datagram_socket(void)
{
    int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    return fd < 0 ? -errno : fd;
}

int clinux_enter_folder(int folder)
{
    return unshare(CLONE_FS) < 0 || fchdir(folder) < 0 ? -errno : 0;
}

static int set_name(struct ifreq *request, const char *name)
{
    memset(request, 0, sizeof *request);
    if (strlen(name) >= sizeof request->ifr_name)
        return -ENAMETOOLONG;
    strcpy(request->ifr_name, name);
    return 0;
}

int clinux_open_tap(const char *name, int has_several_queues)
{
    struct ifreq request;
    int error = set_name(&request, name);
    if (error != 0)
        return error;
    int fd = open("/dev/net/tun", O_RDWR | O_NONBLOCK | O_CLOEXEC);
    if (fd < 0)
        return -errno;
    request.ifr_flags = IFF_TAP | IFF_NO_PI | IFF_VNET_HDR;
    if (has_several_queues)
        request.ifr_flags |= IFF_MULTI_QUEUE;
    int result = ioctl(fd, TUNSETIFF, &request);
    if (result < 0 && errno == EINVAL && !has_several_queues) {
        // The interface may be one that was made for several.
        request.ifr_flags |= IFF_MULTI_QUEUE;
        result = ioctl(fd, TUNSETIFF, &request);
    }
    if (result < 0) {
        error = -errno;
        close(fd);
        return error;
    }
    return fd;
}

void clinux_tap_up(const char *name)
{
    struct ifreq request;
    int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return;
    if (set_name(&request, name) == 0 && ioctl(fd, SIOCGIFFLAGS, &request) == 0) {
        request.ifr_flags |= IFF_UP;
        ioctl(fd, SIOCSIFFLAGS, &request);
    }
    close(fd);
}

int clinux_tap_kind(int fd)
{
    struct ifreq request = {0};
    int needed = IFF_TAP | IFF_NO_PI;
    if (ioctl(fd, TUNGETIFF, &request) < 0 || (request.ifr_flags & needed) != needed)
        return 0;
    return CLINUX_TAP | (request.ifr_flags & IFF_MULTI_QUEUE ? CLINUX_TAP_QUEUES : 0) |
           (request.ifr_flags & IFF_VNET_HDR ? CLINUX_TAP_HEADER : 0);
}

int clinux_tap_offloads(int fd, unsigned flags)
{
    return ioctl(fd, TUNSETOFFLOAD, (unsigned long)flags) < 0 ? -errno : 0;
}

int clinux_tap_header_size(int fd, int size)
{
    return ioctl(fd, TUNSETVNETHDRSZ, &size) < 0 ? -errno : 0;
}

int clinux_tap_attach(int fd, int is_attached)
{
    struct ifreq request = {.ifr_flags = is_attached ? IFF_ATTACH_QUEUE : IFF_DETACH_QUEUE};
    return ioctl(fd, TUNSETQUEUE, &request) < 0 ? -errno : 0;
}

ssize_t clinux_write_parts(int fd, const struct iovec *parts, int count)
{
    ssize_t written;
    do
        written = writev(fd, parts, count);
    while (written < 0 && errno == EINTR);
    return written < 0 ? -errno : written;
}

ssize_t clinux_read_parts(int fd, const struct iovec *parts, int count)
{
    ssize_t received;
    do
        received = readv(fd, parts, count);
    while (received < 0 && errno == EINTR);
    return received < 0 ? -errno : received;
}
