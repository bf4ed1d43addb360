// What a network device needs of Linux: frames over sockets and tap interfaces. Wrappers return
// -errno on failure, and none of them waits.
#ifndef CLINUX_NETWORK_H
#define CLINUX_NETWORK_H

#include <sys/types.h>
#include <sys/uio.h>

#pragma clang assume_nonnull begin

// Sends and receives with a connected socket. SIGPIPE is not raised.
ssize_t clinux_send_parts(int socket, const struct iovec *parts, int count);
ssize_t clinux_receive_parts(int socket, const struct iovec *parts, int count);

// Reads without waiting what stays there to be read.
ssize_t clinux_peek(int socket, void *data, size_t length);

// A datagram socket of the Unix domain, unbound, close-on-exec and non-blocking.
int clinux_unix_datagram_socket(void);

// Gives the calling thread a working folder of its own.
int clinux_enter_folder(int folder);

// What a tap interface leaves to its user of checksums and segments (TUN_F_...).
static const unsigned CLINUX_TUN_F_CSUM = 0x01;
static const unsigned CLINUX_TUN_F_TSO4 = 0x02;
static const unsigned CLINUX_TUN_F_TSO6 = 0x04;
static const unsigned CLINUX_TUN_F_TSO_ECN = 0x08;
static const unsigned CLINUX_TUN_F_USO4 = 0x20;
static const unsigned CLINUX_TUN_F_USO6 = 0x40;

// Opens a queue of a tap interface, which is made if there is none of that name. Frames have the
// header of virtio. Non-blocking and close-on-exec.
int clinux_open_tap(const char *name, int has_several_queues);
// Lets the interface carry frames, if this process may.
void clinux_tap_up(const char *name);
// What a descriptor is: a queue of a tap interface without packet information, which may have several
// queues, and whose frames may have the header of virtio; 0 if it is something else.
static const int CLINUX_TAP = 1;
static const int CLINUX_TAP_QUEUES = 2;
static const int CLINUX_TAP_HEADER = 4;
int clinux_tap_kind(int fd);
int clinux_tap_offloads(int fd, unsigned flags);
int clinux_tap_header_size(int fd, int size);
// Whether frames of the interface come out at this one of its queues.
int clinux_tap_attach(int fd, int is_attached);

ssize_t clinux_write_parts(int fd, const struct iovec *parts, int count);
ssize_t clinux_read_parts(int fd, const struct iovec *parts, int count);

#pragma clang assume_nonnull end

#endif
