/* Descriptors, sockets and the descriptor limit. Everything made or received here is close-on-exec.
 *
 * Inside a seccomp filter send, recv, getsockopt and shutdown may be refused: only sendmsg, recvmsg, read, write and poll
 * are used on sockets (docs/protocol.md).
 */
#ifndef CODEX_DESCRIPTORS_H
#define CODEX_DESCRIPTORS_H

#include <fcntl.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/socket.h>
#include <sys/types.h>
#include <sys/uio.h>

#include "frames.h"

#ifdef O_PATH
#define OPEN_PATH (O_PATH | O_CLOEXEC)
#else
/* Without O_PATH a descriptor can be had only of a readable file; O_NONBLOCK so that a FIFO does not hang us. */
#define OPEN_PATH (O_RDONLY | O_NONBLOCK | O_NOCTTY | O_CLOEXEC)
#endif

/* A new stream socketpair. When the soft descriptor limit is too low it is raised; see restore_descriptor_limit. */
bool stream_pair(int ends[2]);
bool pipe_pair(int ends[2]);
#ifdef __linux__
/* A socketpair that keeps messages apart and takes no address with them (unix(7)). */
bool packet_pair(int ends[2]);
#endif

/* As open(2), with the limit raised if it is too low. */
int open_descriptor(const char *path, int flags);

/* Never 0, 1 or 2, where a closed stdin, stdout or stderr would otherwise be taken for ours, and written to. */
int above_standard(int descriptor);

bool set_close_on_exec(int descriptor, bool on);
void close_if_open(int *descriptor);

/* The soft descriptor limit, raised to the hard one where that helped; the original is given back before an exec. */
bool raise_descriptor_limit(void);
void restore_descriptor_limit(void);

struct descriptors {
    size_t count;
    int numbers[PART_MAX];
};

/* One sendmsg with descriptors on its first byte. Waits for room unless `now`; retries ETOOMANYREFS (descriptors in
 * flight are counted per user) for five seconds in all. Returns what sendmsg does. */
ssize_t send_message(int socket, struct iovec *pieces, size_t count, const int *descriptors, size_t number, bool now);

/* The same once, without waiting for anything. */
ssize_t send_once(int socket, struct iovec *pieces, size_t count, const int *descriptors, size_t number);

/* All of it; the descriptors ride on the first byte. */
bool send_all(int socket, const uint8_t *bytes, size_t size, const int *descriptors, size_t number);

/* One recvmsg that does not wait. EPROTO when descriptors were lost (MSG_CTRUNC) or something else came with
 * the message; the descriptors that came are closed. */
ssize_t receive_message(int socket, uint8_t *bytes, size_t room, struct descriptors *received);
/* The same, but all of it stays where it is: the descriptors are copies. */
ssize_t peek_message(int socket, uint8_t *bytes, size_t room, struct descriptors *received);
void close_descriptors(struct descriptors *received);

/* Reads what is there, waiting for the first byte; 0 at the end. */
ssize_t read_some(int descriptor, void *bytes, size_t room);
bool write_all(int descriptor, const void *bytes, size_t size);

/* Steps over what was sent. */
void advance(struct iovec **pieces, size_t *count, size_t sent);

#endif
