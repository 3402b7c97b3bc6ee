/* Escalated programs: from SPAWN through the hand-over by the client to the end that both the client and the server are
 * told. The client is not trusted: whatever is odd ends its session, and nothing here ever waits for it. */
#include "supervisor.h"

#include <errno.h>
#include <limits.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>
#ifdef __APPLE__
#include <sys/un.h>
#endif

#include "environment.h"
#include "escalated_child.h"
#include "text.h"

/* A client hands over at once; one that does not is broken or means harm. */
#define HANDOVER_MS 10000

/* Programs that do not run yet, of standing answers: each costs descriptors and memory, and further ones the server bounds
 * (answering.py, MAX_SESSIONS). */
#define BEGINNING_MAX 64

/* Once the child has gone on the client is looked at so soon, and then ever more seldom, until it is heard of. */
#define LOOK_SOON_MS 10
#define LOOK_LATE_MS 1000

/* Frames taken from one client in one turn, so that none keeps the others waiting. */
#define FRAMES_A_TURN 64

enum phase { PHASE_HANDOVER, PHASE_STARTING, PHASE_RUNNING };

struct session {
    struct session *next;
    enum phase phase;
    int stream;  /* -1: the client is gone */
    int program, cwd;
    bool standing;    /* nobody but us knows of it: a standing answer, not a SPAWN */
    uint8_t *payload; /* of the SPAWN or REQUEST, which `spawn` points into */
    struct spawn spawn;
    struct decoder decoder;
    uint8_t room[STREAM_PAYLOAD_MAX];
    struct descriptors received; /* with the frame being read */
    int *descriptors;
    uint32_t *numbers;
    size_t count;
    struct attributes attributes;
    int64_t deadline;
    pid_t client, child;
    struct becoming *becoming; /* what the child works with until it has exec'd */
    int report;
    bool joined;    /* the child is in the client's process group */
    bool stopped;   /* the child; by this signal */
    int stop_signal;
    bool stop_passed_on; /* the client forwarded a stop signal since the child last went on */
    bool continued;      /* the child, by the client, since it last stopped */
    bool told;           /* the client was sent STOPPED and has not answered */
    bool told_over;      /* and CONTINUED since */
    bool went_on;        /* the child, since the client was told, or was last seen stopped with it */
    bool twin_due;       /* with its process group: the client was continued as well, and is going to forward that */
    int look_ms;         /* until the two are looked at again, and when; 0: not */
    int64_t look_at;
    struct outcome outcome;
    size_t polled_stream, polled_report; /* indices; SIZE_MAX: not watched */
};

/* Only what is in our session is touched by process number: a number may have a new owner by now. */
static bool in_our_session(pid_t pid)
{
    return pid > 0 && getsid(pid) == getpid();
}

/* ---- telling -------------------------------------------------------------------------------------------------- */

static void close_handover(struct session *session)
{
    for (size_t i = 0; i < session->count; i++)
        close(session->descriptors[i]);
    session->count = 0;
    close_descriptors(&session->received);
    close_if_open(&session->program);
    close_if_open(&session->cwd);
}

/* Only when no child works with it any more: it has exec'd, or was reaped, or there was none. */
static void free_handover(struct session *session)
{
    free(session->descriptors);
    free(session->numbers);
    free(session->payload);
    free_becoming(session->becoming);
    session->descriptors = NULL;
    session->numbers = NULL;
    session->payload = NULL;
    session->becoming = NULL;
}

/* Stopped, the client would notice neither what its stream says last nor that it ends. */
static void close_stream(struct session *session)
{
    bool wake = session->stream >= 0 && session->told;
    close_if_open(&session->stream);
    if (wake && in_our_session(session->client))
        kill(session->client, SIGCONT);
    session->told = false;
    session->look_ms = 0;
}

/* The one place where a session ends. */
static void finish(struct supervisor *supervisor, struct session *session, struct outcome outcome)
{
    uint8_t frame[FRAME_HEAD + 9];
    if (!session->standing)
        tell_server(supervisor, frame, encode_ended(frame, sizeof frame, session->spawn.session, outcome));
    for (struct session **at = &supervisor->sessions; *at != NULL; at = &(*at)->next)
        if (*at == session) {
            *at = session->next;
            break;
        }
    close_handover(session);
    free_handover(session);
    close_stream(session);
    close_if_open(&session->report);
    free(session);
}

static void finish_unstarted(struct supervisor *supervisor, struct session *session, int error)
{
    finish(supervisor, session, (struct outcome){OUTCOME_NOT_STARTED, (uint32_t)error});
}

static void kill_child(const struct session *session)
{
    if (session->child <= 0)
        return;
    if (!session->joined)
        kill(-session->child, SIGKILL);
    kill(session->child, SIGKILL);
}

/* The client is gone, or as good as. True if the session lives on until its child is reaped. */
static bool drop_client(struct supervisor *supervisor, struct session *session, int error)
{
    close_stream(session);
    close_descriptors(&session->received);
    kill_child(session);
    if (session->child > 0)
        return true;
    finish_unstarted(supervisor, session, error);
    return false;
}

/* False if it does not fit: nobody waits for a client that does not read. */
static bool send_now(const struct session *session, const uint8_t *frame, size_t size)
{
    struct iovec piece = {(void *)(uintptr_t)frame, size};
    return session->stream < 0 || send_message(session->stream, &piece, 1, NULL, 0, true) == (ssize_t)size;
}

/* Drops a client that cannot be told; its session may be gone then. */
static void tell_client(struct supervisor *supervisor, struct session *session, const uint8_t *frame, size_t size)
{
    if (!send_now(session, frame, size))
        drop_client(supervisor, session, errno);
}

/* Ends a session with ERROR. True if it lives on until its child is reaped. */
static bool refuse(struct supervisor *supervisor, struct session *session, const char *reason, int error)
{
    uint8_t frame[FRAME_HEAD + TEXT_ROOM];
    struct text text;
    text_start(&text);
    text_add(&text, reason);
    if (error != 0) {
        text_add(&text, ": ");
        text_add(&text, strerror(error));
    }
    size_t size = encode_reason(frame, sizeof frame, FRAME_ERROR, (struct text_span){text.bytes, text.used});
    send_now(session, frame, size); /* it is dropped either way */
    return drop_client(supervisor, session, error != 0 ? error : EPROTO);
}

/* ---- SPAWN ---------------------------------------------------------------------------------------------------- */

/* Who made the stream: unix(7), SO_PEERCRED. 0 if the system does not say. */
static pid_t peer_of(int stream)
{
#ifdef __APPLE__
    pid_t pid = 0;
    socklen_t size = sizeof pid;
    return getsockopt(stream, SOL_LOCAL, LOCAL_PEERPID, &pid, &size) == 0 ? pid : 0;
#else
    struct ucred credentials;
    socklen_t size = sizeof credentials;
    return getsockopt(stream, SOL_SOCKET, SO_PEERCRED, &credentials, &size) == 0 ? credentials.pid : 0;
#endif
}

/* From here on it is the client's turn, and ours. */
static void begin(struct supervisor *supervisor, struct session *session)
{
    uint8_t frame[FRAME_HEAD];
    session->report = -1;
    session->polled_stream = session->polled_report = SIZE_MAX;
    session->client = peer_of(session->stream);
    session->deadline = now_ms() + HANDOVER_MS;
    decoder_start(&session->decoder, READER_SERVICE, STATE_HANDING_OVER, session->room, sizeof session->room);
    session->next = supervisor->sessions;
    supervisor->sessions = session;
    tell_client(supervisor, session, frame, encode_empty(frame, sizeof frame, FRAME_ESCALATE));
}

bool session_spawn(struct supervisor *supervisor)
{
    struct decoder *decoder = &supervisor->decoder;
    struct descriptors *received = &supervisor->received;
    struct session *session = calloc(1, sizeof *session);
    if (session == NULL)
        return false;
    if (!decode_spawn(decoder->payload, decoder->length, &session->spawn) ||
        received->count != spawn_descriptors(&session->spawn)) {
        free(session);
        return false;
    }
    uint8_t flags = session->spawn.what.flags;
    session->payload = decoder->payload;
    decoder->payload = NULL;
    decoder->capacity = 0;
    session->stream = received->numbers[0];
    session->program = flags & SPAWN_PROGRAM ? received->numbers[1] : -1;
    session->cwd = flags & SPAWN_CWD ? received->numbers[received->count - 1] : -1;
    received->count = 0;
    begin(supervisor, session);
    return true;
}

bool session_stands(struct supervisor *supervisor, const struct standing *says, struct request_received *received)
{
    struct session *session = calloc(1, sizeof *session);
    if (session == NULL)
        return false;
    struct request *what = &session->spawn.what;
    session->standing = true;
    session->payload = received->payload;
    session->stream = received->stream;
    session->program = received->descriptors.numbers[0];
    session->cwd = received->descriptors.count > 1 ? received->descriptors.numbers[1] : -1;
    session->spawn.size = says->program.size;
    session->spawn.modified = says->program.modified;
    session->spawn.changed = says->program.changed;
    *what = received->request;
    what->envc = filter_environment((char *)(uintptr_t)what->env, what->envc);
    what->flags = (uint8_t)(SPAWN_PROGRAM | SPAWN_BY_PATH | (session->cwd >= 0 ? SPAWN_CWD : 0));
    begin(supervisor, session);
    return true;
}

/* ---- what the client sends ------------------------------------------------------------------------------------ */

/* False with a reason in *problem. Takes over the descriptors of the part. */
static bool add_part(struct session *session, const char **problem)
{
    struct fds part;
    struct descriptors *received = &session->received;
    *problem = "protocol error: descriptors that do not match their announcement";
    if (!decode_fds(session->decoder.payload, session->decoder.length, &part) || part.count != received->count)
        return false;
    if (part.total == 0)
        return true;
    if (session->descriptors == NULL) {
        session->descriptors = calloc(part.total, sizeof *session->descriptors);
        session->numbers = calloc(part.total, sizeof *session->numbers);
        *problem = "no memory for its descriptors";
        if (session->descriptors == NULL || session->numbers == NULL)
            return false;
    }
    /* The decoder has seen to it that the parts do not exceed the total. */
    for (uint32_t i = 0; i < part.count; i++) {
        *problem = "protocol error: a descriptor number that is too high or comes twice";
        if (part.numbers[i] > INT_MAX)
            return false;
        for (size_t j = 0; j < session->count; j++)
            if (session->numbers[j] == part.numbers[i])
                return false;
        session->numbers[session->count] = part.numbers[i];
        session->descriptors[session->count++] = received->numbers[i];
        received->numbers[i] = -1;
    }
    received->count = 0;
    return true;
}

static bool start_child(struct supervisor *supervisor, struct session *session)
{
    pid_t group = 0;
    if ((session->attributes.flags & ATTRIBUTE_TERMINAL) != 0 && in_our_session(session->client))
        group = getpgid(session->client);
    if (group < 0)
        group = 0;
    struct escalation escalation = {
        .spawn = &session->spawn, .program = session->program, .cwd = session->cwd,
        .descriptors = session->descriptors, .numbers = session->numbers, .count = session->count,
        .attributes = &session->attributes, .limit = supervisor->limit, .client = session->client, .group = group,
    };
    session->child = start_escalated(&escalation, &session->becoming, &session->report);
    if (session->child < 0)
        return refuse(supervisor, session, "no process could be made for it", errno);
    session->joined = group != 0;
    session->phase = PHASE_STARTING;
    close_handover(session);
    return true;
}

/* ---- stops ----------------------------------------------------------------------------------------------------
 *
 * What a client is told may be over when it reads it, and it is stopped and continued by others as well: with its process
 * group, where the child is in that, by us, or alone. So it answers each STOPPED when it goes on, is told of no other stop
 * before, and only then is it decided what its going on means, by what the kernel says of the child at that moment. */

static void tell_stopped(struct supervisor *supervisor, struct session *session)
{
    uint8_t frame[FRAME_HEAD + 4];
    if (session->stream < 0)
        return;
    session->told = true;
    session->told_over = session->went_on = false;
    session->look_ms = 0;
    tell_client(supervisor, session, frame,
                encode_number(frame, sizeof frame, FRAME_STOPPED, (uint32_t)session->stop_signal));
}

static void look_in(struct session *session, int ms)
{
    int64_t at = now_ms() + ms;
    /* Never put off: a child that is stopped and continued all the time is looked at as well. */
    if (session->look_ms == 0 || at < session->look_at)
        session->look_at = at;
    session->look_ms = ms;
}

static void child_stopped(struct supervisor *supervisor, struct session *session, int signal)
{
    session->stopped = true;
    session->stop_signal = signal;
    session->continued = session->twin_due = false;
    if (!session->told) {
        tell_stopped(supervisor, session);
        return;
    }
    /* Stopped again: that it went on meanwhile may not have been reported. */
    session->went_on = true;
    look_in(session, LOOK_SOON_MS);
}

static bool client_is_stopped(const struct session *session)
{
    return in_our_session(session->client) && process_is_stopped(session->client);
}

/* It is sent SIGCONT only if it is stopped: any other would come to the child. */
static void wake_client(const struct session *session)
{
    if (client_is_stopped(session))
        kill(session->client, SIGCONT);
}

static void child_continued(struct supervisor *supervisor, struct session *session)
{
    uint8_t frame[FRAME_HEAD];
    bool by_client = session->continued;
    session->twin_due = session->joined && !session->told && !by_client;
    session->went_on = true;
    session->stopped = session->continued = session->stop_passed_on = false;
    if (session->told && !session->told_over) {
        session->told_over = true;
        tell_client(supervisor, session, frame, encode_empty(frame, sizeof frame, FRAME_CONTINUED));
    }
    if (session->stream < 0)
        return;
    if (session->told || (session->joined && !by_client))
        look_in(session, LOOK_SOON_MS);
    if (session->told && !session->joined) /* else it most likely goes on by itself */
        wake_client(session);
}

/* What the kernel says of the child now. Where it is in the client's process group it is before the client in the list that
 * the kernel goes through, so a SIGCONT has reached it before the client could tell of its own. */
static void look_at_child(struct supervisor *supervisor, struct session *session)
{
    siginfo_t changed = {.si_pid = 0};
    if (session->child <= 0 ||
        waitid(P_PID, (id_t)session->child, &changed, WCONTINUED | WSTOPPED | WNOHANG) != 0 ||
        changed.si_pid != session->child)
        return;
    if (changed.si_code == CLD_CONTINUED)
        child_continued(supervisor, session);
    else
        child_stopped(supervisor, session, changed.si_status);
}

/* The child has gone on, and nothing was heard of the client since. */
static void look_again(struct supervisor *supervisor, struct session *session)
{
    int before = session->look_ms;
    session->look_ms = 0;
    look_at_child(supervisor, session);
    if (session->stream < 0)
        return;
    if (!session->stopped && (session->told || before == LOOK_SOON_MS)) {
        wake_client(session);
    } else if (session->told && client_is_stopped(session)) {
        /* Both are: whatever came between, this is one stop. */
        session->went_on = false;
        session->look_ms = 0;
        return;
    }
    if (session->look_ms != 0)
        return; /* it has gone on again: soon */
    if (session->told || before < LOOK_LATE_MS)
        look_in(session, before < LOOK_LATE_MS / 2 ? 2 * before : LOOK_LATE_MS);
    else
        session->twin_due = false; /* a client that goes on has forwarded by now what was to come */
}

static void continue_child(struct session *session)
{
    session->continued = session->stopped;
    if (session->child > 0)
        kill(session->child, SIGCONT);
}

/* The answer to STOPPED. False if there was none. */
static bool client_goes_on(struct supervisor *supervisor, struct session *session)
{
    if (!session->told)
        return false;
    look_at_child(supervisor, session);
    session->told = false;
    session->twin_due = false;
    session->look_ms = 0;
    if (session->stopped && session->went_on)
        tell_stopped(supervisor, session); /* another stop, which it has yet to follow */
    else if (session->stopped)
        continue_child(session); /* it alone was continued */
    return true;
}

/* A signal that the client caught, not one that ended its stop. */
static void pass_on(struct supervisor *supervisor, struct session *session, int signal)
{
    if (signal == SIGTSTP || signal == SIGTTIN || signal == SIGTTOU) {
        look_at_child(supervisor, session); /* what that tells is of before */
        session->stop_passed_on = true;
        session->twin_due = false;
    }
    if (signal == SIGCONT && session->joined) {
        look_at_child(supervisor, session);
        /* The client sent it before it has read that the child was stopped. That counts as before the stop: with the group
         * it was, and a ^Z is not to be undone. Unless the stop was the client's own. */
        bool taken = session->twin_due || (session->told && !session->stop_passed_on);
        session->twin_due = false;
        if (taken)
            return;
    }
    if (signal == SIGCONT)
        continue_child(session);
    else if (session->child > 0)
        kill(session->child, signal);
}

/* False if the session is gone. */
static bool take_frame(struct supervisor *supervisor, struct session *session)
{
    const struct decoder *decoder = &session->decoder;
    const char *problem = NULL;
    uint32_t signal;
    if (decoder->type == FRAME_FDS)
        return add_part(session, &problem) || refuse(supervisor, session, problem, 0);
    if (session->received.count != 0)
        return refuse(supervisor, session, "protocol error: descriptors where none belong", 0);
    if (decoder->type == FRAME_ATTRIBUTES)
        return decode_attributes(decoder->payload, decoder->length, &session->attributes)
                   ? start_child(supervisor, session)
                   : refuse(supervisor, session, "protocol error: attributes that cannot be", 0);
    if (decoder->type == FRAME_CONTINUED)
        return client_goes_on(supervisor, session) ||
               refuse(supervisor, session, "protocol error: a stop is answered that there was not", 0);
    if (!decode_signal(decoder->payload, decoder->length, &signal))
        return refuse(supervisor, session, "protocol error: a signal that does not exist", 0);
    pass_on(supervisor, session, (int)signal);
    return true;
}

/* Reads one piece. False when there is nothing more for now, or no session or client any more. */
static bool read_client(struct supervisor *supervisor, struct session *session, int *frames)
{
    struct descriptors received;
    size_t room;
    bool first = decoder_at_start(&session->decoder);
    uint8_t *space = decoder_space(&session->decoder, &room);
    ssize_t got = receive_message(session->stream, space, room, &received);
    if (got < 0 && (errno == EAGAIN || errno == EWOULDBLOCK))
        return false;
    if (got < 0 && errno == EPROTO) {
        refuse(supervisor, session, "protocol error: descriptors were lost on the way", 0);
        return false;
    }
    if (got <= 0) {
        close_descriptors(&received);
        drop_client(supervisor, session, ECONNRESET);
        return false;
    }
    if (received.count != 0 && !first) {
        close_descriptors(&received);
        refuse(supervisor, session, "protocol error: descriptors in the middle of a frame", 0);
        return false;
    }
    if (first)
        session->received = received;
    enum decoder_result result = decoder_took(&session->decoder, (size_t)got);
    if (result == DECODER_BROKEN) {
        struct text text;
        text_start(&text);
        text_add(&text, "protocol error: ");
        text_add(&text, session->decoder.problem);
        text.bytes[text.used] = '\0';
        refuse(supervisor, session, text.bytes, 0);
        return false;
    }
    if (result != DECODER_FRAME)
        return true;
    ++*frames;
    return take_frame(supervisor, session) && session->stream >= 0;
}

/* ---- the child ------------------------------------------------------------------------------------------------ */

static void started(struct supervisor *supervisor, struct session *session)
{
    uint8_t frame[FRAME_HEAD + 8];
    close_if_open(&session->report);
    free_handover(session);
    session->phase = PHASE_RUNNING;
    if (session->standing)
        return;
    tell_server(supervisor, frame,
                encode_started(frame, sizeof frame, session->spawn.session, (uint32_t)session->child));
}

/* Looks what the report pipe says. False if the session is gone. */
static bool read_report(struct supervisor *supervisor, struct session *session)
{
    struct start_report report;
    uint8_t frame[FRAME_HEAD + 5];
    struct pollfd one = {.fd = session->report, .events = POLLIN};
    if (session->report < 0 || poll(&one, 1, 0) <= 0)
        return true;
    ssize_t got = read_some(session->report, &report, sizeof report);
    if (got == 0) {
        started(supervisor, session);
        return true;
    }
    /* Whoever may look into /proc/<child>/fd can write there as well. */
    if (got != (ssize_t)sizeof report)
        report = (struct start_report){STAGE_PARENT, EPROTO};
    struct outcome outcome = {OUTCOME_NOT_STARTED, (uint32_t)report.error};
    reap_failed(session->child);
    session->child = 0;
    if (report.stage != STAGE_EXEC) {
        refuse(supervisor, session, stage_text(report.stage), report.stage == STAGE_CHANGED ? 0 : report.error);
        return false;
    }
    send_now(session, frame, encode_exit(frame, sizeof frame, FRAME_EXIT, outcome));
    finish(supervisor, session, outcome);
    return false;
}

static size_t count_beginning(const struct supervisor *supervisor)
{
    size_t beginning = 0;
    for (const struct session *session = supervisor->sessions; session != NULL; session = session->next)
        beginning += session->phase != PHASE_RUNNING;
    return beginning;
}

bool sessions_may_begin(struct supervisor *supervisor)
{
    if (count_beginning(supervisor) < BEGINNING_MAX)
        return true;
    /* Nobody has looked yet whether those of standing answers run: see sessions_watch. */
    for (struct session *session = supervisor->sessions, *next; session != NULL; session = next) {
        next = session->next;
        read_report(supervisor, session);
    }
    return count_beginning(supervisor) < BEGINNING_MAX;
}

static void child_ended(struct supervisor *supervisor, struct session *session, int status)
{
    uint8_t frame[FRAME_HEAD + 5];
    struct outcome outcome = {WIFSIGNALED(status) ? OUTCOME_SIGNALLED : OUTCOME_EXITED,
                              (uint32_t)(WIFSIGNALED(status) ? WTERMSIG(status) : WEXITSTATUS(status))};
    if (session->phase == PHASE_STARTING) {
        /* The child had the only other end (but for somebody who looks into /proc), so the pipe has told by now. */
        if (!read_report(supervisor, session))
            return;
        if (session->phase == PHASE_STARTING)
            started(supervisor, session);
    }
    session->child = 0;
    send_now(session, frame, encode_exit(frame, sizeof frame, FRAME_EXIT, outcome));
    finish(supervisor, session, outcome);
}

bool session_changed(struct supervisor *supervisor, pid_t child, int status)
{
    struct session *session = supervisor->sessions;
    while (session != NULL && session->child != child)
        session = session->next;
    if (session == NULL)
        return false;
    if (WIFSTOPPED(status))
        child_stopped(supervisor, session, WSTOPSIG(status));
    else if (WIFCONTINUED(status))
        child_continued(supervisor, session);
    else
        child_ended(supervisor, session, status);
    return true;
}

/* ---- the loop's view ------------------------------------------------------------------------------------------ */

size_t sessions_count(const struct supervisor *supervisor)
{
    size_t count = 0;
    for (const struct session *session = supervisor->sessions; session != NULL; session = session->next)
        count++;
    return count;
}

size_t sessions_watch(struct supervisor *supervisor, struct pollfd *polled)
{
    size_t count = 0;
    for (struct session *session = supervisor->sessions; session != NULL; session = session->next) {
        session->polled_stream = session->polled_report = SIZE_MAX;
        if (session->stream >= 0) {
            session->polled_stream = count;
            polled[count++] = (struct pollfd){.fd = session->stream, .events = POLLIN};
        }
        /* Of a standing answer's program nobody is told that it runs, and of its end SIGCHLD tells. */
        if (session->report >= 0 && !session->standing) {
            session->polled_report = count;
            polled[count++] = (struct pollfd){.fd = session->report, .events = POLLIN};
        }
    }
    return count;
}

/* False if the session is gone. */
static bool serve_report(struct supervisor *supervisor, struct session *session, const struct pollfd *polled)
{
    if (session->polled_report == SIZE_MAX || polled[session->polled_report].revents == 0 || session->report < 0)
        return true;
    return read_report(supervisor, session);
}

void sessions_serve(struct supervisor *supervisor, const struct pollfd *polled)
{
    int64_t now = now_ms();
    for (struct session *session = supervisor->sessions, *next; session != NULL; session = next) {
        int frames = 0;
        next = session->next;
        if (!serve_report(supervisor, session, polled))
            continue;
        if (session->phase == PHASE_HANDOVER && now >= session->deadline) {
            refuse(supervisor, session, "its descriptors were not handed over in time", ETIMEDOUT);
            continue;
        }
        if (session->look_ms != 0 && now >= session->look_at)
            look_again(supervisor, session);
        if (session->stream >= 0 && session->polled_stream != SIZE_MAX && polled[session->polled_stream].revents != 0)
            /* What is left after a turn is announced again by the next poll. */
            while (frames < FRAMES_A_TURN && read_client(supervisor, session, &frames))
                continue;
    }
}

int sessions_patience(const struct supervisor *supervisor)
{
    int64_t now = now_ms(), least = -1;
    for (const struct session *session = supervisor->sessions; session != NULL; session = session->next) {
        int64_t deadline = session->phase == PHASE_HANDOVER ? session->deadline : session->look_at;
        if (session->phase != PHASE_HANDOVER && session->look_ms == 0)
            continue;
        int64_t left = deadline > now ? deadline - now : 0;
        if (least < 0 || left < least)
            least = left;
    }
    return (int)least; /* HANDOVER_MS at most */
}

void sessions_abandon(struct supervisor *supervisor)
{
    for (struct session *session = supervisor->sessions, *next; session != NULL; session = next) {
        next = session->next;
        if (session->child <= 0)
            finish_unstarted(supervisor, session, ECANCELED);
    }
}
