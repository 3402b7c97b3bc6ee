/* What the two halves of codex-execve-wrapper share: the question, and the attendance on an escalated program. */
#ifndef CODEX_CLIENT_H
#define CODEX_CLIENT_H

#include <stddef.h>
#include <stdint.h>

#include "frames.h"

/* Exit statuses of docs/protocol.md, "Client behaviour". */
enum { STATUS_DENIED = 1, STATUS_NOT_RUN = 126, STATUS_NOT_FOUND = 127 };

struct client {
    const char *file;
    int rendezvous; /* the call's datagram socket */
    int ask;        /* where to answer the shell in ask mode, else -1 */
    int stream;
    int program, cwd;
    struct decoder decoder;
    uint8_t input[512];
    size_t input_from, input_to;
};

/* The next frame; does not return when the server is lost or breaks the protocol. */
void next_frame(struct client *client);
bool frame_waiting(const struct client *client);

_Noreturn void not_run(const struct client *client, const char *cause, int error);
_Noreturn void not_run_reason(const struct client *client); /* after an ERROR frame */

/* The program could not be started: its name, why, and the shell's status for that. */
_Noreturn void fail_as(const char *file, int error);

/* After ESCALATE: hands over, relays signals, ends as the program does. */
_Noreturn void attend(struct client *client);

#endif
