#include "descriptors.h"

#include <errno.h>
#include <poll.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/time.h>
#include <unistd.h>

#ifndef MSG_CMSG_CLOEXEC
#define MSG_CMSG_CLOEXEC 0
#define MUST_SET_CLOSE_ON_EXEC 1
#else
#define MUST_SET_CLOSE_ON_EXEC 0
#endif

#ifdef __APPLE__
#define NO_SIGNAL 0 /* the flag is newer than the oldest system we run on: SO_NOSIGPIPE is set instead */
#else
#define NO_SIGNAL MSG_NOSIGNAL
#endif

/* How long descriptors in flight may be too many: five seconds in steps of ten milliseconds. */
#define FLIGHT_STEPS 500
#define FLIGHT_STEP_MS 10

static struct rlimit original_limit;
static bool limit_raised;

bool raise_descriptor_limit(void)
{
    struct rlimit limit;
    if (limit_raised || getrlimit(RLIMIT_NOFILE, &limit) != 0 || limit.rlim_cur >= limit.rlim_max)
        return false;
    original_limit = limit;
#ifdef __APPLE__
    /* setrlimit(2) there: more than OPEN_MAX is refused although the hard limit says unlimited. */
    limit.rlim_cur = limit.rlim_max < 10240 ? limit.rlim_max : 10240;
#else
    limit.rlim_cur = limit.rlim_max;
#endif
    limit_raised = setrlimit(RLIMIT_NOFILE, &limit) == 0;
    return limit_raised;
}

void restore_descriptor_limit(void)
{
    if (limit_raised)
        setrlimit(RLIMIT_NOFILE, &original_limit);
    limit_raised = false;
}

bool set_close_on_exec(int descriptor, bool on)
{
    int flags = fcntl(descriptor, F_GETFD);
    return flags >= 0 && fcntl(descriptor, F_SETFD, on ? flags | FD_CLOEXEC : flags & ~FD_CLOEXEC) == 0;
}

void close_if_open(int *descriptor)
{
    if (*descriptor >= 0)
        close(*descriptor);
    *descriptor = -1;
}

int above_standard(int descriptor)
{
    if (descriptor < 0 || descriptor > 2)
        return descriptor;
    int moved = fcntl(descriptor, F_DUPFD_CLOEXEC, 3);
    if (moved < 0 && errno == EMFILE && raise_descriptor_limit())
        moved = fcntl(descriptor, F_DUPFD_CLOEXEC, 3);
    int error = errno;
    close(descriptor);
    errno = error;
    return moved;
}

static bool both_above_standard(int ends[2])
{
    for (int i = 0; i < 2; i++) {
        ends[i] = above_standard(ends[i]);
        if (ends[i] < 0) {
            int error = errno;
            close(ends[1 - i]);
            errno = error;
            return false;
        }
    }
    return true;
}

static int make_stream_pair(int ends[2])
{
#ifdef SOCK_CLOEXEC
    return socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends);
#else
    int on = 1;
    if (socketpair(AF_UNIX, SOCK_STREAM, 0, ends) != 0)
        return -1;
    for (int i = 0; i < 2; i++) {
        set_close_on_exec(ends[i], true);
        setsockopt(ends[i], SOL_SOCKET, SO_NOSIGPIPE, &on, sizeof on);
    }
    return 0;
#endif
}

bool stream_pair(int ends[2])
{
    if (make_stream_pair(ends) != 0 && (errno != EMFILE || !raise_descriptor_limit() || make_stream_pair(ends) != 0))
        return false;
    return both_above_standard(ends);
}

#ifdef __linux__
bool packet_pair(int ends[2])
{
    return socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends) == 0 && both_above_standard(ends);
}
#endif

bool pipe_pair(int ends[2])
{
#ifdef __APPLE__
    if (pipe(ends) != 0)
        return false;
    set_close_on_exec(ends[0], true);
    set_close_on_exec(ends[1], true);
#else
    if (pipe2(ends, O_CLOEXEC) != 0 && (errno != EMFILE || !raise_descriptor_limit() || pipe2(ends, O_CLOEXEC) != 0))
        return false;
#endif
    return both_above_standard(ends);
}

int open_descriptor(const char *path, int flags)
{
    int descriptor = open(path, flags);
    if (descriptor < 0 && errno == EMFILE && raise_descriptor_limit())
        descriptor = open(path, flags);
    return above_standard(descriptor);
}

void advance(struct iovec **pieces, size_t *count, size_t sent)
{
    while (*count > 0 && sent >= (*pieces)->iov_len) {
        sent -= (*pieces)->iov_len;
        ++*pieces;
        --*count;
    }
    if (*count > 0) {
        (*pieces)->iov_base = (char *)(*pieces)->iov_base + sent;
        (*pieces)->iov_len -= sent;
    }
}

static void wait_for(int descriptor, short events, int limit_ms)
{
    struct pollfd one = {.fd = descriptor, .events = events};
    poll(&one, descriptor < 0 ? 0 : 1, limit_ms);
}

static ssize_t send_flagged(int socket, struct iovec *pieces, size_t count, const int *descriptors, size_t number,
                            int flags)
{
    union {
        struct cmsghdr align;
        uint8_t bytes[CMSG_SPACE(sizeof(int) * PART_MAX)];
    } ancillary;
    struct msghdr message = {.msg_iov = pieces};
    message.msg_iovlen = (__typeof__(message.msg_iovlen))count;
    if (number > 0) {
        message.msg_control = ancillary.bytes;
        message.msg_controllen = (__typeof__(message.msg_controllen))CMSG_SPACE(sizeof(int) * number);
        memset(ancillary.bytes, 0, message.msg_controllen);
        struct cmsghdr *header = CMSG_FIRSTHDR(&message);
        header->cmsg_level = SOL_SOCKET;
        header->cmsg_type = SCM_RIGHTS;
        header->cmsg_len = (__typeof__(header->cmsg_len))CMSG_LEN(sizeof(int) * number);
        memcpy(CMSG_DATA(header), descriptors, sizeof(int) * number);
    }
    ssize_t sent;
    do
        sent = sendmsg(socket, &message, NO_SIGNAL | flags);
    while (sent < 0 && errno == EINTR);
    return sent;
}

ssize_t send_once(int socket, struct iovec *pieces, size_t count, const int *descriptors, size_t number)
{
    return send_flagged(socket, pieces, count, descriptors, number, MSG_DONTWAIT);
}

ssize_t send_message(int socket, struct iovec *pieces, size_t count, const int *descriptors, size_t number, bool now)
{
    static int flight_steps; /* in all, not per message */
    for (;;) {
        ssize_t sent = send_flagged(socket, pieces, count, descriptors, number, now ? MSG_DONTWAIT : 0);
        if (sent >= 0 || errno == EPIPE)
            return sent;
        if (errno == ETOOMANYREFS && flight_steps++ < FLIGHT_STEPS)
            /* The allowance is the soft descriptor limit: raising that may do. */
            raise_descriptor_limit() ? (void)0 : wait_for(-1, 0, FLIGHT_STEP_MS);
        else if (errno == ENOBUFS && !now)
            wait_for(-1, 0, FLIGHT_STEP_MS);
        else if ((errno == EAGAIN || errno == EWOULDBLOCK) && !now)
            wait_for(socket, POLLOUT, -1);
        else
            return -1;
    }
}

bool send_all(int socket, const uint8_t *bytes, size_t size, const int *descriptors, size_t number)
{
    while (size > 0) {
        struct iovec piece = {(void *)(uintptr_t)bytes, size};
        ssize_t sent = send_message(socket, &piece, 1, descriptors, number, false);
        if (sent < 0)
            return false;
        bytes += sent;
        size -= (size_t)sent;
        number = 0;
    }
    return true;
}

/* The C library's macro compares sizes of different signedness. */
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wsign-compare"
static struct cmsghdr *next_header(struct msghdr *message, struct cmsghdr *header)
{
    return CMSG_NXTHDR(message, header);
}
#pragma GCC diagnostic pop

#ifndef SCM_PIDFD
#define SCM_PIDFD 4
#endif

/* Collects the descriptors of a message; more than fit cannot be, for the kernel had no room for them. False if there is
 * anything else: whoever made the socket can have set it to deliver credentials, or a process descriptor a message. */
static bool collect(struct msghdr *message, struct descriptors *received)
{
    bool fine = true;
    for (struct cmsghdr *header = CMSG_FIRSTHDR(message); header != NULL; header = next_header(message, header)) {
        bool rights = header->cmsg_level == SOL_SOCKET && header->cmsg_type == SCM_RIGHTS;
        fine = fine && rights;
        if (!rights && (header->cmsg_level != SOL_SOCKET || header->cmsg_type != SCM_PIDFD))
            continue;
        const uint8_t *at = CMSG_DATA(header);
        const uint8_t *end = (const uint8_t *)header + header->cmsg_len;
        for (; at < end && (size_t)(end - at) >= sizeof(int); at += sizeof(int)) {
            int descriptor;
            memcpy(&descriptor, at, sizeof descriptor);
            if (MUST_SET_CLOSE_ON_EXEC)
                set_close_on_exec(descriptor, true);
            if (rights && received->count < PART_MAX)
                received->numbers[received->count++] = descriptor;
            else
                close(descriptor);
        }
    }
    return fine;
}

static ssize_t receive_flagged(int socket, uint8_t *bytes, size_t room, struct descriptors *received, int flags)
{
    union {
        struct cmsghdr align;
        uint8_t bytes[CMSG_SPACE(sizeof(int) * PART_MAX)];
    } ancillary;
    struct iovec piece = {bytes, room};
    struct msghdr message = {.msg_iov = &piece, .msg_iovlen = 1, .msg_control = ancillary.bytes,
                             .msg_controllen = sizeof ancillary.bytes};
    ssize_t got;
    received->count = 0;
    do
        got = recvmsg(socket, &message, MSG_CMSG_CLOEXEC | MSG_DONTWAIT | flags);
    while (got < 0 && errno == EINTR);
    if (got < 0)
        return got;
    bool fine = collect(&message, received);
    if (!fine || (message.msg_flags & MSG_CTRUNC) != 0) {
        close_descriptors(received);
        errno = EPROTO;
        return -1;
    }
    return got;
}

ssize_t receive_message(int socket, uint8_t *bytes, size_t room, struct descriptors *received)
{
    return receive_flagged(socket, bytes, room, received, 0);
}

ssize_t peek_message(int socket, uint8_t *bytes, size_t room, struct descriptors *received)
{
    return receive_flagged(socket, bytes, room, received, MSG_PEEK);
}

void close_descriptors(struct descriptors *received)
{
    for (size_t i = 0; i < received->count; i++)
        close(received->numbers[i]);
    received->count = 0;
}

ssize_t read_some(int descriptor, void *bytes, size_t room)
{
    for (;;) {
        ssize_t got = read(descriptor, bytes, room);
        if (got < 0 && (errno == EAGAIN || errno == EWOULDBLOCK))
            wait_for(descriptor, POLLIN, -1);
        else if (got >= 0 || errno != EINTR)
            return got;
    }
}

bool write_all(int descriptor, const void *bytes, size_t size)
{
    for (const char *at = bytes; size > 0;) {
        ssize_t written = write(descriptor, at, size);
        if (written < 0 && (errno == EAGAIN || errno == EWOULDBLOCK))
            wait_for(descriptor, POLLOUT, -1);
        else if (written < 0 && errno != EINTR)
            return false;
        else if (written > 0) {
            at += written;
            size -= (size_t)written;
        }
    }
    return true;
}
