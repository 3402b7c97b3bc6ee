/* codex-execve-wrapper: asks whether an exec may happen, and has it happen as the answer says (docs/protocol.md).
 *
 * One runs per exec of a script, so it is small, static, without stdio and allocator, and leaves the /proc file system
 * alone unless the program is escalated. It carries messages and descriptors; all judgement is the server's. Whatever
 * goes wrong, the exec does not happen.
 */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "client.h"
#include "descriptors.h"
#include "text.h"

extern char **environ;

#define SOCKET_VARIABLE "CODEX_ESCALATE_SOCKET="
#define IN_FLIGHT_TEXT "too many descriptors of this user are on their way through sockets; try again"
#define ASK_NAME "codex-execve-ask:"

#ifndef VERSION
#define VERSION "unknown"
#endif

/* For `strings` and bug reports: there is no --version, argv[1] is always a file. */
const char version_text[] __attribute__((used)) = "codex-execve-wrapper " VERSION;

_Noreturn void not_run(const struct client *client, const char *cause, int error)
{
    struct text text;
    text_start(&text);
    text_add(&text, "codex-execve-wrapper: ");
    text_quoted(&text, client->file);
    text_add(&text, ": not run");
    if (client->decoder.reader == READER_CLIENT && client->decoder.state == STATE_ATTACHED)
        text_add(&text, " to its end");
    text_add(&text, ": ");
    text_add(&text, cause);
    if (error != 0) {
        text_add(&text, ": ");
        text_add(&text, strerror(error));
    }
    text_say(&text);
    _exit(STATUS_NOT_RUN);
}

_Noreturn void fail_as(const char *file, int error)
{
    struct text text;
    text_start(&text);
    text_quoted(&text, file);
    text_add(&text, ": ");
    text_add(&text, strerror(error));
    text_say(&text);
    _exit(error == ENOENT ? STATUS_NOT_FOUND : STATUS_NOT_RUN);
}

static _Noreturn void say_reason(const char *before, struct text_span reason, int status)
{
    static char line[TEXT_ROOM + REASON_MAX + 2];
    size_t used = strlen(before);
    memcpy(line, before, used);
    memcpy(line + used, reason.bytes, reason.length);
    used += reason.length;
    line[used++] = '\n';
    signal(SIGPIPE, SIG_IGN);
    write_all(STDERR_FILENO, line, used);
    _exit(status);
}

_Noreturn void not_run_reason(const struct client *client)
{
    struct text_span reason;
    struct text before;
    if (!decode_reason(client->decoder.payload, client->decoder.length, &reason))
        not_run(client, "the server broke the protocol: a reason that is not UTF-8", 0);
    if (reason.length == 0)
        not_run(client, "the server could not decide", 0);
    text_start(&before);
    text_add(&before, "codex-execve-wrapper: ");
    text_quoted(&before, client->file);
    text_add(&before, ": not run: ");
    before.bytes[before.used] = '\0';
    say_reason(before.bytes, reason, STATUS_NOT_RUN);
}

static _Noreturn void denied(const struct client *client)
{
    struct text_span reason;
    if (!decode_reason(client->decoder.payload, client->decoder.length, &reason))
        not_run(client, "the server broke the protocol: a reason that is not UTF-8", 0);
    say_reason(reason.length == 0 ? "Execution denied" : "Execution denied: ", reason, STATUS_DENIED);
}

/* ---- the question --------------------------------------------------------------------------------------------- */

/* Pieces of the request not yet sent. The strings are sent from where they lie: the kernel lays argv and environ out one
 * behind the other, so they are a handful of pieces however many they are. */
struct question {
    struct request counts;
    const char *file, *cwd;
    char **argv;
    size_t next;  /* first string not yet in `pieces` */
    size_t total; /* strings */
    struct iovec pieces[32];
    struct iovec *at;
    size_t count;
    int descriptors[2];
    size_t number;
    uint8_t head[REQUEST_HEAD];
    char directory[PATH_MAX];
};

static const char *string_at(const struct question *question, size_t index)
{
    if (index < 2)
        return index == 0 ? question->file : question->cwd;
    index -= 2;
    return index < question->counts.argc ? question->argv[index] : environ[index - question->counts.argc];
}

static void add_strings(struct question *question)
{
    const size_t most = sizeof question->pieces / sizeof *question->pieces;
    struct iovec *last = question->count > 0 ? &question->pieces[question->count - 1] : NULL;
    for (; question->next < question->total; question->next++) {
        const char *string = string_at(question, question->next);
        size_t size = strlen(string) + 1;
        if (last != NULL && (const char *)last->iov_base + last->iov_len == string) {
            last->iov_len += size;
            continue;
        }
        if (question->count == most)
            return;
        last = &question->pieces[question->count++];
        *last = (struct iovec){(void *)(uintptr_t)string, size};
    }
}

/* Sends on; false with errno EAGAIN if `now` and there is no room, or when it fails. */
static bool send_on(struct question *question, int stream, bool now)
{
    for (;;) {
        if (question->count == 0) {
            if (question->next == question->total)
                return true;
            question->at = question->pieces;
            add_strings(question);
        }
        ssize_t sent = send_message(stream, question->at, question->count, question->descriptors, question->number, now);
        if (sent < 0)
            return false;
        question->number = 0;
        advance(&question->at, &question->count, (size_t)sent);
    }
}

static void take_cwd(struct question *question)
{
    question->cwd = getcwd(question->directory, sizeof question->directory);
    /* Gone, out of reach or too long: its descriptor still tells. */
    if (question->cwd == NULL || question->cwd[0] != '/')
        question->cwd = "";
}

static bool compose(struct client *client, struct question *question, char **argv)
{
    mode_t mask = umask(0);
    umask(mask);
    size_t size = 0, argc = 0, envc = 0;
    while (argv[argc] != NULL)
        argc++;
    while (environ[envc] != NULL)
        envc++;
    question->file = client->file;
    question->argv = argv;
    question->counts.umask = (uint32_t)mask & 0777;
    question->counts.argc = (uint32_t)argc;
    question->counts.envc = (uint32_t)envc;
    question->counts.flags = (uint8_t)((client->program >= 0 ? REQUEST_PROGRAM : 0) |
                                       (client->cwd >= 0 ? REQUEST_CWD : 0) | (client->ask >= 0 ? REQUEST_ASK : 0));
    if (client->program >= 0)
        question->descriptors[question->number++] = client->program;
    if (client->cwd >= 0)
        question->descriptors[question->number++] = client->cwd;
    take_cwd(question);
    question->total = 2 + argc + envc;
    for (size_t i = 0; i < question->total; i++)
        size += strlen(string_at(question, i)) + 1;
    if (encode_request_head(question->head, &question->counts, size) == 0)
        return false;
    question->pieces[question->count++] = (struct iovec){question->head, REQUEST_HEAD};
    question->at = question->pieces;
    add_strings(question);
    return true;
}

static void introduce(const struct client *client, int far)
{
    uint8_t version = PROTOCOL_VERSION;
    struct iovec piece = {&version, 1};
    if (send_message(client->rendezvous, &piece, 1, &far, 1, false) == 1)
        return;
    switch (errno) {
    case ECONNREFUSED: case ECONNRESET: case EPIPE: case ENOTCONN: case EDESTADDRREQ:
        not_run(client, "the server is gone", 0);
    case ETOOMANYREFS:
        not_run(client, IN_FLIGHT_TEXT, 0);
    default:
        not_run(client, "the server cannot be reached", errno);
    }
}

static void ask_server(struct client *client, char **argv)
{
    static struct question question;
    int ends[2];
    if (!stream_pair(ends))
        not_run(client, "no socket for the question (is the descriptor limit too low?)", errno);
    client->stream = ends[0];
    client->program = open_descriptor(client->file, OPEN_PATH);
    client->cwd = open_descriptor(".", OPEN_PATH);
    if (!compose(client, &question, argv))
        not_run(client, "its arguments and environment are larger than a question may be", 0);
    bool sent = send_on(&question, client->stream, true);
    if (!sent && errno == ETOOMANYREFS)
        not_run(client, IN_FLIGHT_TEXT, 0);
    if (!sent && errno != EAGAIN && errno != EWOULDBLOCK)
        not_run(client, "the question could not be written", errno);
    introduce(client, ends[1]);
    close(ends[1]); /* else the server's death would go unnoticed */
    /* A server that refuses may say so and close before it has read everything: its answer counts. */
    if (!sent && !send_on(&question, client->stream, false) && errno != EPIPE && errno != ECONNRESET)
        not_run(client, "the question could not be sent", errno);
}

/* ---- the answer ----------------------------------------------------------------------------------------------- */

bool frame_waiting(const struct client *client)
{
    return client->input_from < client->input_to;
}

void next_frame(struct client *client)
{
    for (;;) {
        size_t used;
        enum decoder_result result = decoder_feed(&client->decoder, client->input + client->input_from,
                                                  client->input_to - client->input_from, &used);
        client->input_from += used;
        if (result == DECODER_FRAME)
            return;
        if (result == DECODER_BROKEN) {
            struct text text;
            text_start(&text);
            text_add(&text, "the server broke the protocol: ");
            text_add(&text, client->decoder.problem);
            text.bytes[text.used] = '\0';
            not_run(client, text.bytes, 0);
        }
        ssize_t got = read_some(client->stream, client->input, sizeof client->input);
        if (got <= 0)
            not_run(client, "the server closed the connection without an answer", 0);
        client->input_from = 0;
        client->input_to = (size_t)got;
    }
}

/* Tells the shell, in ask mode, what its exec has come to. SIGPIPE: it may be gone. */
static void tell_shell(const struct client *client, const char *answer)
{
    struct sigaction ignore = {.sa_handler = SIG_IGN}, before;
    sigaction(SIGPIPE, &ignore, &before);
    if (!write_all(client->ask, answer, 1))
        not_run(client, "the shell does not listen", errno);
    sigaction(SIGPIPE, &before, NULL);
}

static _Noreturn void run(const struct client *client, char **argv)
{
    if (frame_waiting(client))
        not_run(client, "the server broke the protocol: more than one answer", 0);
    if (client->ask >= 0) {
        tell_shell(client, "R");
        _exit(0);
    }
    restore_descriptor_limit();
    execve(client->file, argv, environ);
    int error = errno;
    uint8_t frame[FRAME_HEAD + 4];
    send_all(client->stream, frame, encode_number(frame, sizeof frame, FRAME_EXEC_FAILED, (uint32_t)error), NULL, 0);
    fail_as(client->file, error);
}

static void find_rendezvous(struct client *client)
{
    const char *value = NULL;
    struct stat status;
    for (char **entry = environ; *entry != NULL && value == NULL; entry++)
        if (strncmp(*entry, SOCKET_VARIABLE, sizeof SOCKET_VARIABLE - 1) == 0)
            value = *entry + sizeof SOCKET_VARIABLE - 1;
    if (value == NULL)
        not_run(client, "CODEX_ESCALATE_SOCKET is not set", 0);
    if (!parse_number(value, &client->rendezvous))
        not_run(client, "CODEX_ESCALATE_SOCKET is not a number", 0);
    if (fstat(client->rendezvous, &status) != 0 || !S_ISSOCK(status.st_mode)) {
        struct text text;
        text_start(&text);
        text_add(&text, "descriptor ");
        text_number(&text, client->rendezvous);
        text_add(&text, ", named by CODEX_ESCALATE_SOCKET, is not a socket");
        text.bytes[text.used] = '\0';
        not_run(client, text.bytes, 0);
    }
}

static void find_ask(struct client *client, const char *name)
{
    client->ask = -1;
    if (name == NULL || strncmp(name, ASK_NAME, sizeof ASK_NAME - 1) != 0)
        return;
    if (!parse_number(name + sizeof ASK_NAME - 1, &client->ask) || fcntl(client->ask, F_GETFD) < 0)
        not_run(client, "it was asked for without an open descriptor for the answer", 0);
}

int main(int argc, char **argv)
{
    static struct client client;
    static uint8_t payload[CLIENT_PAYLOAD_MAX];
    if (argc < 3) {
        struct text text;
        text_start(&text);
        text_add(&text, "usage: codex-execve-wrapper FILE ARGV0 [ARG...]");
        text_say(&text);
        return STATUS_NOT_RUN;
    }
    client.file = argv[1];
    decoder_start(&client.decoder, READER_CLIENT, STATE_ASKED, payload, sizeof payload);
    /* No question the kernel would not answer by itself: it takes no such path. */
    if (client.file[0] == '\0')
        fail_as(client.file, ENOENT);
    if (strlen(client.file) > PATH_BYTES_MAX)
        fail_as(client.file, ENAMETOOLONG);
    find_ask(&client, argv[0]);
    find_rendezvous(&client);
    ask_server(&client, argv + 2);
    next_frame(&client);
    switch (client.decoder.type) {
    case FRAME_RUN:
        run(&client, argv + 2);
    case FRAME_ESCALATE:
        if (client.ask >= 0)
            tell_shell(&client, "E");
        attend(&client);
    case FRAME_DENY:
        denied(&client);
    default:
        not_run_reason(&client); /* the state table leaves only ERROR */
    }
}
