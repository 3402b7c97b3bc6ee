/* codex-shell-supervisor: runs one call's shell in its sandbox, and the call's escalated programs outside it; ends all of
 * them when the server says so or is gone (docs/protocol.md).
 *
 * A single thread around poll. It is the session leader and the subreaper of everything the call starts, trusts only the
 * server, and never waits for anyone but in poll.
 */
#include "supervisor.h"

#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>
#ifdef __linux__
#include <sys/prctl.h>
#endif

#include "attributes.h"
#include "escalated_child.h"
#include "group.h"
#include "inventory.h"
#include "sandboxed_shell.h"
#include "signals.h"
#include "text.h"

#ifndef VERSION
#define VERSION "unknown"
#endif

/* A server that leaves this much unread (half a million frames) is gone for all practical purposes. */
#define QUEUE_MAX (4u << 20)

extern char **environ;

/* How long FINISHED may wait for a slow server. */
#define FLUSH_MS 2000

/* Between looks whether anything is left, where nothing tells of an orphan's end. */
#define LOOK_MS 1000

enum { STATUS_FINISHED = 0, STATUS_BROKEN = 1, STATUS_USAGE = 2 };

static const char usage[] =
    "usage: codex-shell-supervisor --control N --socket N [--group PATH] [--standing] [--restrict] [--writable PATH]... "
    "[--no-network] -- SHELL ARGV0 [ARG...]\n"
    "       codex-shell-supervisor --control N [--group PATH] --wait\n"
    "       codex-shell-supervisor --probe | --version | --help\n";

int64_t now_ms(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

/* ---- the server ----------------------------------------------------------------------------------------------- */

static void flush_queue(struct supervisor *supervisor)
{
    supervisor->queue_stuck = false;
    while (supervisor->queued > 0) {
        struct iovec piece = {supervisor->queue, supervisor->queued};
        ssize_t sent = send_message(supervisor->control, &piece, 1, NULL, 0, true);
        if (sent <= 0) {
            if (errno != EAGAIN && errno != EWOULDBLOCK && errno != ENOBUFS) {
                supervisor->queued = 0;
                supervisor->ending = true;
            }
            supervisor->queue_stuck = supervisor->queued > 0;
            return;
        }
        supervisor->queued -= (size_t)sent;
        memmove(supervisor->queue, supervisor->queue + sent, supervisor->queued);
    }
}

void queue_frame(struct supervisor *supervisor, const uint8_t *frame, size_t size)
{
    if (supervisor->queued + size > supervisor->queue_room) {
        size_t room = supervisor->queue_room * 2 + size + 4096;
        uint8_t *larger = room > QUEUE_MAX ? NULL : realloc(supervisor->queue, room);
        if (larger == NULL) {
            supervisor->ending = true;
            return;
        }
        supervisor->queue = larger;
        supervisor->queue_room = room;
    }
    memcpy(supervisor->queue + supervisor->queued, frame, size);
    supervisor->queued += size;
}

void tell_server(struct supervisor *supervisor, const uint8_t *frame, size_t size)
{
    queue_frame(supervisor, frame, size);
    flush_queue(supervisor);
}

static void tell_shell_failed(struct supervisor *supervisor, int error, const char *message, size_t length)
{
    uint8_t frame[FRAME_HEAD + 4 + TEXT_ROOM];
    /* Paths may hold any bytes; the message is UTF-8. */
    struct text_span text = {message, length};
    if (!decode_reason((const uint8_t *)message, length, &text))
        text = (struct text_span){"a path in its options is not UTF-8, and it cannot be used", 57};
    supervisor->decoder.state = CONTROL_FAILED;
    tell_server(supervisor, frame, encode_shell_failed(frame, sizeof frame, (uint32_t)error, text));
}

void reap_failed(pid_t child)
{
    if (waitpid(child, NULL, WNOHANG) != 0)
        return; /* it is gone already: the number may be anybody's */
    kill(child, SIGKILL);
    while (waitpid(child, NULL, 0) < 0 && errno == EINTR)
        continue;
}

/* The shell's report pipe: its end says that the shell runs. That is queued for the server, in no hurry. */
static void read_shell_report(struct supervisor *supervisor)
{
    struct shell_report report;
    uint8_t frame[FRAME_HEAD + 4];
    struct pollfd one = {.fd = supervisor->shell_report, .events = POLLIN};
    if (supervisor->shell_report < 0 || poll(&one, 1, 0) <= 0)
        return;
    ssize_t got = read_some(supervisor->shell_report, &report, sizeof report);
    close_if_open(&supervisor->shell_report);
    if (got == (ssize_t)sizeof report && report.length <= sizeof report.message) {
        reap_failed(supervisor->shell);
        supervisor->shell = 0;
        tell_shell_failed(supervisor, report.error, report.message, report.length);
        return;
    }
    supervisor->decoder.state = CONTROL_RUNNING;
    queue_frame(supervisor, frame,
                encode_number(frame, sizeof frame, FRAME_SHELL_STARTED, (uint32_t)supervisor->shell));
}

/* Whether somebody waits for the report. Whoever is asked by a running shell learns of it in time; where we stand between,
 * that is us, and the server need not be woken for it. */
static bool report_is_awaited(const struct supervisor *supervisor)
{
    return supervisor->inner < 0;
}

static void shell_ended(struct supervisor *supervisor, int status)
{
    uint8_t frame[FRAME_HEAD + 5];
    struct outcome outcome = {WIFSIGNALED(status) ? OUTCOME_SIGNALLED : OUTCOME_EXITED,
                              (uint32_t)(WIFSIGNALED(status) ? WTERMSIG(status) : WEXITSTATUS(status))};
    read_shell_report(supervisor);
    if (supervisor->shell == 0)
        return; /* it never ran */
    supervisor->shell = 0;
    supervisor->decoder.state = CONTROL_SHELL_ENDED;
    standing_tell(supervisor);
    /* Not sent yet: if nothing is left, FINISHED goes along. */
    queue_frame(supervisor, frame, encode_exit(frame, sizeof frame, FRAME_SHELL_EXIT, outcome));
}

bool reap_children(struct supervisor *supervisor)
{
    for (;;) {
        int status;
        pid_t child = waitpid(-1, &status, WNOHANG | WUNTRACED | WCONTINUED);
        if (child == 0)
            return true;
        if (child < 0 && errno != EINTR)
            return false;
        if (child > 0 && child == supervisor->shell) {
            if (WIFEXITED(status) || WIFSIGNALED(status))
                shell_ended(supervisor, status);
        } else if (child > 0) {
            session_changed(supervisor, child, status); /* else an orphan */
        }
    }
}

/* The shell has ended: what it has left goes on, under the same rules, and we end with the last of it. */
static void keep_what_is_left(struct supervisor *supervisor)
{
    uint8_t frame[FRAME_HEAD + 4];
    uint32_t left = processes_left(supervisor);
    supervisor->kept = true;
    supervisor->ending = supervisor->ending || left == 0;
    supervisor->decoder.state = CONTROL_KEPT;
    standing_tell(supervisor);
    tell_server(supervisor, frame, encode_number(frame, sizeof frame, FRAME_KEPT, left));
}

/* ---- start ---------------------------------------------------------------------------------------------------- */

struct options {
    bool standing;
    int control;
    int socket; /* the shell's end of the datagram pair */
    int output; /* what is to be its stdout and stderr; -1: ours */
    const char *group;
    struct sandbox_options sandbox;
    char **shell; /* SHELL ARGV0 [ARG...]; NULL: a START frame will tell */
    char **environment;
    const char *cwd; /* NULL: where we are */
};

static bool take_descriptor(const char *text, int *descriptor)
{
    return text != NULL && parse_number(text, descriptor) && *descriptor > 2 && fcntl(*descriptor, F_GETFD) >= 0;
}

/* One option of how the shell is run. False: it is none. */
static bool take_confinement(char ***argv, struct options *options)
{
    struct sandbox_options *sandbox = &options->sandbox;
    const char *option = **argv;
    if (strcmp(option, "--standing") == 0)
        options->standing = true;
    else if (strcmp(option, "--restrict") == 0)
        sandbox->restrict_writes = true;
    else if (strcmp(option, "--no-network") == 0)
        sandbox->no_network = true;
    else if (strcmp(option, "--writable") == 0 && (*argv)[1] != NULL)
        sandbox->writable[sandbox->count++] = *++*argv;
    else
        return false;
    return true;
}

/* How the shell is confined and, behind "--", what it is. */
static bool parse_shell(char **argv, struct options *options)
{
    for (; *argv != NULL; argv++) {
        if (strcmp(*argv, "--") == 0) {
            options->shell = argv + 1;
            return argv[1] != NULL && argv[2] != NULL;
        }
        if (!take_confinement(&argv, options))
            return false;
    }
    return false;
}

static bool parse_options(char **argv, struct options *options)
{
    for (; *argv != NULL; argv += 2) {
        if (strcmp(*argv, "--group") == 0 && argv[1] != NULL)
            options->group = argv[1];
        else if (strcmp(*argv, "--control") == 0 && take_descriptor(argv[1], &options->control))
            continue;
        else if (strcmp(*argv, "--socket") != 0 || !take_descriptor(argv[1], &options->socket))
            break;
    }
    if (*argv == NULL || options->control < 0)
        return false;
    if (strcmp(*argv, "--wait") == 0)
        return argv[1] == NULL && options->socket < 0;
    return options->socket >= 0 && parse_shell(argv, options);
}

/* A session of our own. A leader of a process group cannot have one; it joins its parent's group first. */
static bool start_session(void)
{
    if (setsid() >= 0 || getsid(0) == getpid())
        return true;
    return setpgid(0, getpgid(getppid())) == 0 && setsid() >= 0;
}

/* Nothing of the caller's may stay open here: pipes must reach their end when the shell and its children have let go. */
static bool let_go_of_stdio(void)
{
    int null = open_descriptor("/dev/null", O_RDWR | O_CLOEXEC);
    if (null < 0)
        return false;
    bool done = true;
    for (int number = 0; number <= 2; number++)
        done = dup2(null, number) >= 0 && set_close_on_exec(number, true) && done;
    close(null);
    return done && chdir("/") == 0;
}

static bool prepare(struct supervisor *supervisor, const char **problem)
{
    *problem = "the processes of this host cannot be listed (is /proc mounted?), so what the shell leaves behind could not "
               "be ended";
    if (!ending_prepare())
        return false;
    *problem = "no session of its own could be started";
    if (!start_session())
        return false;
    *problem = "no pipe could be made";
    if (!pipe_pair(supervisor->wake))
        return false;
    fcntl(supervisor->wake[0], F_SETFL, O_NONBLOCK);
    fcntl(supervisor->wake[1], F_SETFL, O_NONBLOCK);
#ifdef __linux__
    *problem = "it cannot become the reaper of its descendants";
    if (prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0)
        return false;
    /* A script may have stopped us, and then nobody would end it. The signal is none to us otherwise, which matters: it also
     * comes when only the thread that started us ends. */
    prctl(PR_SET_PDEATHSIG, SIGCONT);
#endif
    signals_reset(0);
    signals_ignore(SIGPIPE);
    signals_relay(SIGNAL_BIT(SIGCHLD) | SIGNAL_BIT(SIGTERM) | SIGNAL_BIT(SIGHUP) | SIGNAL_BIT(SIGINT),
                  supervisor->wake[1]);
    signals_block(0);
    return true;
}

static void close_others_on_exec(int number, void *context)
{
    (void)context;
    if (number > 2)
        set_close_on_exec(number, true);
}

/* All that can be done before it is known what to run. */
static void get_ready(struct supervisor *supervisor, const struct options *options)
{
    getrlimit(RLIMIT_NOFILE, &supervisor->limit); /* before anything here raises it */
    each_descriptor(close_others_on_exec, NULL);
    raise_descriptor_limit();
    adopt_prepare();
    if (options->group != NULL)
        group_make(options->group);
    name_supervisor(supervisor->waits);
    if (!prepare(supervisor, &supervisor->unready))
        supervisor->unready_error = errno;
    else
        supervisor->unready = NULL;
    if (supervisor->waits)
        let_go_of_stdio();
}

/* Starts the shell, or says why it was not. */
static void launch(struct supervisor *supervisor, struct options *options)
{
    const char *problem = supervisor->unready;
    int error = supervisor->unready_error;
    struct shell_start start = {
        .path = options->shell[0], .argv = options->shell + 1, .environment = options->environment, .cwd = options->cwd,
        .output = options->output, .rendezvous = options->socket, .limit = supervisor->limit, .sandbox = options->sandbox,
    };
    pid_t shell = -1;
    if (problem == NULL && options->standing) {
        start.rendezvous = standing_interpose(supervisor, options->socket);
        options->socket = start.rendezvous;
        error = errno;
        problem = start.rendezvous < 0 ? "no socket for its questions could be made" : NULL;
    }
    if (problem == NULL) {
        problem = "no process could be made for the shell";
        name_supervisor(false);
        start.terminal = isatty(STDIN_FILENO) && ioctl(STDIN_FILENO, TIOCSCTTY, 0) == 0;
        shell = start_shell(&start, &supervisor->shell_report);
        error = errno;
    }
    close_if_open(&options->socket);
    close_if_open(&options->output);
    if (!supervisor->waits)
        let_go_of_stdio();
    if (shell < 0)
        tell_shell_failed(supervisor, error, problem, strlen(problem));
    else
        supervisor->shell = shell;
}

/* A START frame: the rest of the command line. False: the server broke the protocol, or there is no memory. */
static bool start_as_told(struct supervisor *supervisor)
{
    struct start start;
    struct options options = {.control = -1, .socket = -1, .output = -1};
    if (supervisor->received.count != 2 || !decode_start(supervisor->decoder.payload, supervisor->decoder.length, &start))
        return false;
    char **arguments = string_vector(start.argv, start.argc);
    options.environment = string_vector(start.env, start.envc);
    options.sandbox.writable = calloc((size_t)start.argc + 1, sizeof *options.sandbox.writable);
    options.cwd = start.cwd;
    bool fine = arguments != NULL && options.environment != NULL && options.sandbox.writable != NULL &&
                parse_shell(arguments, &options);
    if (fine) {
        options.output = supervisor->received.numbers[0];
        options.socket = supervisor->received.numbers[1];
        supervisor->received.count = 0;
        launch(supervisor, &options);
    }
    free(arguments);
    free(options.environment);
    free(options.sandbox.writable);
    return fine;
}

/* ---- what the server says --------------------------------------------------------------------------------------- */

/* False: the server broke the protocol. */
static bool take_control_frame(struct supervisor *supervisor)
{
    bool fine = true, late = supervisor->decoder.state == CONTROL_WAITING;
    if (supervisor->decoder.type == FRAME_SPAWN)
        fine = session_spawn(supervisor);
    else if (supervisor->decoder.type == FRAME_STANDING)
        fine = late || standing_add(supervisor);
    else if (supervisor->decoder.type == FRAME_HOLD)
        fine = late || standing_hold(supervisor);
    else if (supervisor->decoder.type == FRAME_KEEP)
        keep_what_is_left(supervisor);
    else if (supervisor->decoder.type == FRAME_START)
        fine = start_as_told(supervisor);
    else
        supervisor->ending = true; /* the state table leaves only END */
    fine = fine && supervisor->received.count == 0;
    close_descriptors(&supervisor->received);
    return fine;
}

/* Reads what the server has sent. False: it broke the protocol. Its end closing means END. */
static bool read_control(struct supervisor *supervisor)
{
    while (!supervisor->ending) {
        struct descriptors received;
        size_t room;
        bool first = decoder_at_start(&supervisor->decoder);
        uint8_t *space = decoder_space(&supervisor->decoder, &room);
        ssize_t got = receive_message(supervisor->control, space, room, &received);
        if (got < 0 && (errno == EAGAIN || errno == EWOULDBLOCK))
            return true;
        if (got <= 0) {
            supervisor->ending = true;
            return got == 0 || errno != EPROTO;
        }
        if (received.count != 0 && !first) {
            close_descriptors(&received);
            return false;
        }
        if (first)
            supervisor->received = received;
        /* A SPAWN can only be due to a running shell: take note of that first. */
        read_shell_report(supervisor);
        enum decoder_result result = decoder_took(&supervisor->decoder, (size_t)got);
        if (result == DECODER_BROKEN || (result == DECODER_FRAME && !take_control_frame(supervisor)))
            return false;
    }
    return true;
}

/* ---- the loop ------------------------------------------------------------------------------------------------- */

/* Nothing is left of the call that could be kept, or would have to be ended: on to the next one, if there is to be one. */
static void rest(struct supervisor *supervisor)
{
    uint8_t frame[FRAME_HEAD];
    sessions_abandon(supervisor);
    supervisor->ending = supervisor->ending || !supervisor->waits || sessions_count(supervisor) != 0;
    if (supervisor->ending)
        return;
    standing_tell(supervisor);
    supervisor->answered = supervisor->answered_told = 0;
    supervisor->decoder.state = CONTROL_WAITING;
    name_supervisor(true);
    tell_server(supervisor, frame, encode_empty(frame, sizeof frame, FRAME_IDLE));
    /* Only now: that the rendezvous is closed would wake the server once more. */
    standing_end(supervisor);
}

static void read_signals(struct supervisor *supervisor)
{
    struct caught caught;
    while (read(supervisor->wake[0], &caught, sizeof caught) == (ssize_t)sizeof caught)
        if (caught.number != SIGCHLD)
            supervisor->ending = true;
    if (!reap_children(supervisor) && PROCESSES_ADOPTED && supervisor->decoder.state == CONTROL_SHELL_ENDED)
        rest(supervisor);
    /* What was escalated by a standing answer can wait until there is more to tell; that the shell has ended cannot. */
    if (supervisor->decoder.state != CONTROL_RUNNING && !supervisor->ending)
        flush_queue(supervisor);
}

/* Milliseconds until something is due, or -1. */
static int patience(const struct supervisor *supervisor)
{
    int least = sessions_patience(supervisor), rest = standing_patience(supervisor);
    if (rest >= 0 && (least < 0 || rest < least))
        least = rest;
    if (!supervisor->kept || PROCESSES_ADOPTED)
        return least;
    return least < 0 || least > LOOK_MS ? LOOK_MS : least;
}

/* What is watched besides the sessions. */
enum { OWN_POLLED = 3 + STANDING_POLLED };

/* One round. False: the server broke the protocol, or there is no memory. */
static bool serve_once(struct supervisor *supervisor)
{
    static struct pollfd *polled;
    static size_t room;
    size_t needed = OWN_POLLED + 2 * sessions_count(supervisor);
    if (needed > room) {
        struct pollfd *larger = realloc(polled, needed * 2 * sizeof *polled);
        if (larger == NULL)
            return false;
        polled = larger;
        room = needed * 2;
    }
    polled[0] = (struct pollfd){.fd = supervisor->control,
                                .events = (short)(POLLIN | (supervisor->queue_stuck ? POLLOUT : 0))};
    polled[1] = (struct pollfd){.fd = supervisor->wake[0], .events = POLLIN};
    polled[2] = (struct pollfd){.fd = report_is_awaited(supervisor) ? supervisor->shell_report : -1, .events = POLLIN};
    standing_watch(supervisor, polled + 3);
    size_t count = OWN_POLLED + sessions_watch(supervisor, polled + OWN_POLLED);
    if (poll(polled, (nfds_t)count, patience(supervisor)) < 0) {
        if (errno != EINTR)
            return false;
        for (size_t i = 0; i < count; i++)
            polled[i].revents = 0;
    }
    read_shell_report(supervisor);
    sessions_serve(supervisor, polled + OWN_POLLED);
    if (polled[1].revents != 0)
        read_signals(supervisor);
    if (supervisor->kept && (polled[1].revents != 0 || !PROCESSES_ADOPTED) && processes_left(supervisor) == 0)
        supervisor->ending = true;
    if (polled[0].revents & POLLOUT)
        flush_queue(supervisor);
    /* What the server said before a request was made counts for it, so that is read first. */
    if ((polled[0].revents != 0 || polled[3].revents != 0) && !read_control(supervisor))
        return false;
    if (!supervisor->ending)
        standing_serve(supervisor, polled + 3);
    if (report_is_awaited(supervisor))
        flush_queue(supervisor);
    return true;
}

static void finish(struct supervisor *supervisor)
{
    uint8_t frame[FRAME_HEAD + 4];
    int64_t give_up = now_ms() + FLUSH_MS;
    sessions_abandon(supervisor);
    standing_end(supervisor);
    uint32_t ended = end_everything(supervisor);
    standing_tell(supervisor);
    tell_server(supervisor, frame, encode_number(frame, sizeof frame, FRAME_FINISHED, ended));
    group_remove(); /* nobody needs to wait for that */
    while (supervisor->queued > 0 && now_ms() < give_up) {
        struct pollfd control = {.fd = supervisor->control, .events = POLLOUT};
        poll(&control, 1, (int)(give_up - now_ms()));
        flush_queue(supervisor);
    }
}

/* ---- all of it ------------------------------------------------------------------------------------------------- */

static uint8_t *allocate(size_t size)
{
    return malloc(size);
}

static int supervise(struct options *options)
{
    static struct supervisor supervisor = {.wake = {-1, -1}, .shell_report = -1, .inner = -1, .outer = -1, .waiting = -1};
    bool fine = true;
    supervisor.control = options->control;
    supervisor.waits = options->shell == NULL;
    /* Each frame's payload is allocated, for a SPAWN's goes on living with its session. */
    decoder_start(&supervisor.decoder, READER_SUPERVISOR, supervisor.waits ? CONTROL_WAITING : CONTROL_START, NULL, 0);
    supervisor.decoder.allocate = allocate;
    get_ready(&supervisor, options);
    if (!supervisor.waits)
        launch(&supervisor, options);
    while (fine && !supervisor.ending)
        fine = serve_once(&supervisor);
    finish(&supervisor);
    return fine ? STATUS_FINISHED : STATUS_BROKEN;
}

static void print(const char *text)
{
    write_all(STDOUT_FILENO, text, strlen(text));
}

static void probe(void)
{
    struct sandbox_abilities abilities;
    struct text text;
    sandbox_probe(&abilities);
    text_start(&text);
    text_add(&text, "{\"landlock_abi\":");
    text_number(&text, abilities.landlock_abi);
    text_add(&text, abilities.seccomp ? ",\"seccomp\":true" : ",\"seccomp\":false");
    text_add(&text, ",\"platform\":\"");
    text_add(&text, abilities.platform);
    text_add(&text, "\"}\n");
    write_all(STDOUT_FILENO, text.bytes, text.used);
}

int main(int argc, char **argv)
{
    struct options options = {.control = -1, .socket = -1, .output = -1, .environment = environ};
    if (argc == 2 && strcmp(argv[1], "--probe") == 0) {
        probe();
        return 0;
    }
    if (argc == 2 && strcmp(argv[1], "--version") == 0) {
        print("codex-shell-supervisor " VERSION "\n");
        return 0;
    }
    if (argc == 2 && strcmp(argv[1], "--help") == 0) {
        print(usage);
        return 0;
    }
    options.sandbox.writable = calloc((size_t)argc + 1, sizeof *options.sandbox.writable);
    if (options.sandbox.writable == NULL || argc < 1 || !parse_options(argv + 1, &options)) {
        write_all(STDERR_FILENO, usage, sizeof usage - 1);
        return STATUS_USAGE;
    }
    return supervise(&options);
}
