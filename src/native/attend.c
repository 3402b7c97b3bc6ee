/* What the wrapper does once its program runs outside: it hands over what an exec would have kept, stands in for the
 * program towards the shell (signals, stops), and ends the way the program ends. */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdbool.h>
#include <sys/stat.h>
#include <unistd.h>

#include "attributes.h"
#include "client.h"
#include "descriptors.h"
#include "inventory.h"
#include "signals.h"

struct handover {
    const struct client *client;
    struct stat rendezvous;
    uint32_t count;
    bool too_many;
    uint32_t numbers[DESCRIPTORS_MAX];
};

static bool is_rendezvous(const struct handover *handover, int number)
{
    struct stat status;
    if (number == handover->client->rendezvous)
        return true;
    return fstat(number, &status) == 0 && S_ISSOCK(status.st_mode) && status.st_dev == handover->rendezvous.st_dev &&
           status.st_ino == handover->rendezvous.st_ino;
}

/* What an exec'd program would have: not close-on-exec (so none of ours), not O_PATH, not the escalation socket under any
 * number, not the shell's answer pipe. */
static void consider(int number, void *context)
{
    struct handover *handover = context;
    int flags = fcntl(number, F_GETFD);
    if (flags < 0 || (flags & FD_CLOEXEC) != 0 || number == handover->client->ask)
        return;
#ifdef O_PATH
    flags = fcntl(number, F_GETFL);
    if (flags < 0 || (flags & O_PATH) != 0)
        return;
#endif
    if (is_rendezvous(handover, number))
        return;
    if (handover->count == DESCRIPTORS_MAX)
        handover->too_many = true;
    else
        handover->numbers[handover->count++] = (uint32_t)number;
}

/* The attributes ride with the last part: one message where there are few descriptors, for which the supervisor wakes once. */
static bool send_all_of_it(const struct client *client, const struct handover *handover,
                           const struct attributes *attributes)
{
    uint8_t frames[FRAME_HEAD + STREAM_PAYLOAD_MAX + ATTRIBUTES_FRAME_MAX];
    int part[PART_MAX];
    uint32_t sent = 0;
    do {
        uint32_t count = handover->count - sent < PART_MAX ? handover->count - sent : PART_MAX;
        for (uint32_t i = 0; i < count; i++)
            part[i] = (int)handover->numbers[sent + i];
        size_t size = encode_fds(frames, sizeof frames, handover->count, handover->numbers + sent, count);
        sent += count;
        if (sent == handover->count)
            size += encode_attributes(frames + size, sizeof frames - size, attributes);
        if (!send_all(client->stream, frames, size, part, count))
            return false;
    } while (sent < handover->count);
    return true;
}

/* Only the program is to hold them now: a pipe must reach its end when the program closes it. stderr stays for what we
 * may have to say. */
static void let_go(struct client *client, const struct handover *handover)
{
    for (uint32_t i = 0; i < handover->count; i++)
        if (handover->numbers[i] != STDERR_FILENO)
            close((int)handover->numbers[i]);
    close_if_open(&client->rendezvous);
    close_if_open(&client->program);
    close_if_open(&client->cwd);
}

static void hand_over(struct client *client, struct attributes *attributes, uint64_t blocked)
{
    static struct handover handover;
    handover.client = client;
    fstat(client->rendezvous, &handover.rendezvous);
    each_usable_descriptor(consider, &handover);
    if (handover.too_many)
        not_run(client, "more than 4096 descriptors are open; an escalated program cannot be given so many", 0);
    take_attributes(attributes, blocked);
    bool sent = send_all_of_it(client, &handover, attributes);
    if (!sent && errno != EPIPE && errno != ECONNRESET)
        not_run(client, "its descriptors could not be handed over", errno);
    if (!sent)
        return; /* the supervisor has closed: what it said before is still to be read */
    client->decoder.state = STATE_ATTACHED;
    let_go(client, &handover);
}

/* More than ever wait, and few enough that a flood of them cannot keep us from stopping. */
#define WAITING_SIGNALS 128

struct attendance {
    struct client *client;
    bool shares_terminal;
    int relay[2];
    int hidden; /* signals that the C library keeps for itself */
};

static bool stops(int number)
{
    return number == SIGTSTP || number == SIGTTIN || number == SIGTTOU;
}

static bool sent_by_terminal(int number)
{
    return number == SIGINT || number == SIGQUIT || stops(number) || number == SIGHUP || number == SIGWINCH ||
           number == SIGCONT;
}

static void forward(struct attendance *attendance, struct caught caught)
{
    uint8_t frame[FRAME_HEAD + 4];
    /* The end of a child that we inherited from the shell is no business of the program's. */
    if (caught.number == SIGCHLD && caught.from_kernel)
        return;
    /* It is in our process group: the kernel has sent it the same. */
    if (attendance->shares_terminal && caught.from_kernel && sent_by_terminal(caught.number))
        return;
    /* If it cannot be sent, the stream tells why. */
    send_all(attendance->client->stream, frame, encode_number(frame, sizeof frame, FRAME_SIGNAL, caught.number), NULL, 0);
}

static _Noreturn void end_as(const struct client *client)
{
    struct outcome outcome;
    if (!decode_exit(client->decoder.payload, client->decoder.length, &outcome))
        not_run(client, "the supervisor broke the protocol: an end that cannot be", 0);
    if (outcome.kind == OUTCOME_NOT_STARTED)
        fail_as(client->file, (int)outcome.value);
    if (outcome.kind == OUTCOME_EXITED)
        _exit((int)outcome.value);
    die_of((int)outcome.value);
    _exit(128 + (int)outcome.value);
}

static bool next_caught(const struct attendance *attendance, struct caught *caught)
{
    return read(attendance->relay[0], caught, sizeof *caught) == (ssize_t)sizeof *caught ||
           (attendance->hidden >= 0 && signals_next_hidden(attendance->hidden, caught));
}

struct waiting {
    int count;
    struct caught signals[WAITING_SIGNALS];
};

static void take_waiting(const struct attendance *attendance, struct waiting *waiting)
{
    waiting->count = 0;
    while (waiting->count < WAITING_SIGNALS && next_caught(attendance, &waiting->signals[waiting->count]))
        waiting->count++;
}

/* Not SIGCONT, for which our answer to STOPPED stands, nor the stops before it, which it takes away. */
static void forward_waiting(struct attendance *attendance, const struct waiting *waiting)
{
    int last = waiting->count - 1;
    while (last >= 0 && waiting->signals[last].number != SIGCONT)
        last--;
    for (int i = 0; i < waiting->count; i++)
        if (waiting->signals[i].number != SIGCONT && (i > last || !stops(waiting->signals[i].number)))
            forward(attendance, waiting->signals[i]);
}

/* Whether there was a SIGCONT, and no stop since. */
static bool continued(const struct waiting *waiting)
{
    int last = waiting->count - 1;
    while (last >= 0 && waiting->signals[last].number != SIGCONT && !stops(waiting->signals[last].number))
        last--;
    return last >= 0 && waiting->signals[last].number == SIGCONT;
}

static void tell_that_we_go_on(const struct attendance *attendance)
{
    uint8_t frame[FRAME_HEAD];
    send_all(attendance->client->stream, frame, encode_empty(frame, sizeof frame, FRAME_CONTINUED), NULL, 0);
}

/* The supervisor has more to say already: that the program goes on, or that it has ended. */
static bool more_is_told(const struct client *client)
{
    struct pollfd stream = {.fd = client->stream, .events = POLLIN};
    return frame_waiting(client) || poll(&stream, 1, 0) > 0;
}

static void stop(struct attendance *attendance)
{
    const struct decoder *decoder = &attendance->client->decoder;
    static struct waiting waiting;
    uint32_t number;
    if (!decode_signal(decoder->payload, decoder->length, &number))
        not_run(attendance->client, "the supervisor broke the protocol: a signal that does not exist", 0);
    stop_begins();
    take_waiting(attendance, &waiting);
    forward_waiting(attendance, &waiting);
    bool over = continued(&waiting) || more_is_told(attendance->client);
    waiting.count = 0;
    if (!over) {
        stop_like(stops((int)number) ? (int)number : SIGSTOP);
        take_waiting(attendance, &waiting);
    }
    /* Whether the program goes on as well, and should, the supervisor sees; it tells us again if it is stopped. What has come
     * since we go on is forwarded behind that: a stop counts then. */
    tell_that_we_go_on(attendance);
    forward_waiting(attendance, &waiting);
}

static void take_frame(struct attendance *attendance)
{
    next_frame(attendance->client);
    switch (attendance->client->decoder.type) {
    case FRAME_EXIT:
        end_as(attendance->client);
    case FRAME_STOPPED:
        stop(attendance);
        break;
    case FRAME_CONTINUED: /* our answer to STOPPED has crossed it, or follows */
        break;
    default:
        not_run_reason(attendance->client); /* the state table leaves only ERROR */
    }
}

static void attend_once(struct attendance *attendance)
{
    struct pollfd sources[3] = {
        {.fd = attendance->client->stream, .events = POLLIN},
        {.fd = attendance->relay[0], .events = POLLIN},
        {.fd = attendance->hidden, .events = POLLIN}, /* -1 is passed over */
    };
    struct caught caught;
    if (frame_waiting(attendance->client)) {
        take_frame(attendance);
        return;
    }
    if (poll(sources, 3, -1) < 0)
        return; /* a signal: it is in the pipe */
    /* The stream first: after STOPPED, our answer stands for a SIGCONT that waits. */
    if (sources[0].revents != 0)
        take_frame(attendance);
    else if (next_caught(attendance, &caught))
        forward(attendance, caught);
}

_Noreturn void attend(struct client *client)
{
    static struct attributes attributes;
    struct attendance attendance = {.client = client};
    uint64_t blocked = signals_block(SIGNALS_ALL);
    if (!pipe_pair(attendance.relay))
        not_run(client, "no pipe for its signals (is the descriptor limit too low?)", errno);
    fcntl(attendance.relay[0], F_SETFL, O_NONBLOCK);
    fcntl(attendance.relay[1], F_SETFL, O_NONBLOCK);
    struct relayed relayed = signals_relay(SIGNALS_ALL, attendance.relay[1]);
    signals_block(SIGNALS_ALL); /* musl has let two of its own through (33 and 34) */
    attributes.ignored = relayed.ignored;
    hand_over(client, &attributes, blocked);
    attendance.shares_terminal = (attributes.flags & ATTRIBUTE_TERMINAL) != 0;
    attendance.hidden = signals_hidden(&relayed.hidden);
    signals_block(relayed.hidden);
    for (;;)
        attend_once(&attendance);
}
