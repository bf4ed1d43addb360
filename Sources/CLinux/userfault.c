#include "CLinuxUserfault.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

const uint32_t clinux_userfault_requests[CLINUX_USERFAULT_REQUESTS] = {
    USERFAULTFD_IOC_NEW, UFFDIO_API, UFFDIO_REGISTER, UFFDIO_UNREGISTER};

int clinux_userfault_make(int device)
{
    int fd = ioctl(device, USERFAULTFD_IOC_NEW, O_CLOEXEC | O_NONBLOCK);
    if (fd < 0)
        return -errno;
    struct uffdio_api api = {.api = UFFD_API};
    if (ioctl(fd, UFFDIO_API, &api) < 0) {
        int error = errno;
        close(fd);
        return -error;
    }
    return fd;
}

int clinux_userfault_register(int fd, uintptr_t start, uint64_t length)
{
    // What is resolved is a page of the usual size.
    madvise((void *)start, length, MADV_NOHUGEPAGE);
    struct uffdio_register request = {.range = {.start = start, .len = length},
                                      .mode = UFFDIO_REGISTER_MODE_MISSING};
    return ioctl(fd, UFFDIO_REGISTER, &request) < 0 ? -errno : 0;
}

int clinux_userfault_unregister(int fd, uintptr_t start, uint64_t length)
{
    struct uffdio_range range = {.start = start, .len = length};
    return ioctl(fd, UFFDIO_UNREGISTER, &range) < 0 ? -errno : 0;
}

int clinux_userfault_next(int fd, uint64_t *address)
{
    struct uffd_msg message;
    *address = 0;
    ssize_t count = read(fd, &message, sizeof message);
    if (count < 0)
        return errno == EAGAIN ? 0 : -errno;
    if (count == (ssize_t)sizeof message && message.event == UFFD_EVENT_PAGEFAULT)
        *address = message.arg.pagefault.address;
    return 0;
}

int clinux_userfault_wake(int fd, uintptr_t start, uint64_t length)
{
    struct uffdio_range range = {.start = start, .len = length};
    return ioctl(fd, UFFDIO_WAKE, &range) < 0 ? -errno : 0;
}
