/* Answers that the server gave in advance. Most execs of a loop are of the same few programs; asking the server about each
 * costs more than all the rest of an exec, so it says how far it looked, and what looks the same is answered here.
 *
 * For that the supervisor stands between the shell and the server: it reads the rendezvous of the call, looks at the request
 * without taking it (MSG_PEEK), and passes on whatever it has no answer for, untouched. Nothing is decided here. A request
 * may claim anything; what counts of the program is what the kernel says of the descriptor that came with it.
 */
#include "supervisor.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "text.h"

/* Far more than a script runs programs; the server keeps within these, and begins a new generation where it would not. */
#define ANSWERS_MAX 1024u
#define ANSWERS_BYTES_MAX (4u << 20)

#define BUCKETS 256u

/* Bytes of a request that are looked at: all of nearly every one. What Linux sends in one piece is no longer. */
#define REQUEST_ROOM (64u * 1024)

/* Rest after a datagram that is none of ours, and while too many descriptors of the user are in flight. */
#define REST_MS 10

/* How long those may be too many. */
#define FLIGHT_MS 5000

/* Bytes for the server's records that wait to be sent with something else. */
#define TOLD_LATER_MAX (64u * 1024)

struct answer {
    struct answer *next;
    uint8_t *payload; /* of the STANDING, which points into it */
    struct standing says;
};

static struct {
    uint32_t generation;
    uint64_t until;
    uint32_t count;
    size_t bytes;
    struct answer *buckets[BUCKETS];
} answers;

/* ---- what the server says ------------------------------------------------------------------------------------- */

static uint64_t now_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

/* FNV-1a. Which names have an answer, only the server says: nobody can fill one bucket on purpose. */
static struct answer **bucket_of(const char *file)
{
    uint32_t hash = 2166136261u;
    for (; *file != '\0'; file++)
        hash = (hash ^ (uint8_t)*file) * 16777619u;
    return &answers.buckets[hash % BUCKETS];
}

static void forget_all(void)
{
    for (size_t i = 0; i < BUCKETS; i++)
        for (struct answer *answer = answers.buckets[i], *next; answer != NULL; answer = next) {
            next = answer->next;
            free(answer->payload);
            free(answer);
        }
    memset(answers.buckets, 0, sizeof answers.buckets);
    answers.count = 0;
    answers.bytes = 0;
}

static void hold(uint32_t generation, uint64_t until)
{
    if (generation != answers.generation)
        forget_all();
    answers.generation = generation;
    answers.until = until;
}

bool standing_hold(struct supervisor *supervisor)
{
    uint32_t generation;
    uint64_t until;
    if (!decode_hold(supervisor->decoder.payload, supervisor->decoder.length, &generation, &until))
        return false;
    hold(generation, until);
    return true;
}

bool standing_add(struct supervisor *supervisor)
{
    struct decoder *decoder = &supervisor->decoder;
    struct answer *answer = calloc(1, sizeof *answer);
    if (answer == NULL)
        return false;
    if (!decode_standing(decoder->payload, decoder->length, &answer->says)) {
        free(answer);
        return false;
    }
    hold(answer->says.generation, answers.generation == answer->says.generation && answers.until > answer->says.until
                                      ? answers.until : answer->says.until);
    if (answers.count >= ANSWERS_MAX || answers.bytes + decoder->length > ANSWERS_BYTES_MAX) {
        free(answer);
        return true; /* what has no answer here is asked about */
    }
    answer->payload = decoder->payload;
    answers.bytes += decoder->length;
    answers.count++;
    decoder->payload = NULL;
    decoder->capacity = 0;
    struct answer **bucket = bucket_of(answer->says.file);
    answer->next = *bucket;
    *bucket = answer;
    return true;
}

void standing_tell(struct supervisor *supervisor)
{
    uint8_t frame[FRAME_HEAD + 8];
    if (supervisor->answered == supervisor->answered_told)
        return;
    supervisor->answered_told = supervisor->answered;
    queue_frame(supervisor, frame, encode_answered(frame, sizeof frame, supervisor->answered));
}

/* ---- which answer a request gets ------------------------------------------------------------------------------ */

/* Whether the words that were looked at are the same: as many, unless both have more than were looked at. */
static bool same_words(const struct standing *says, const struct request *request)
{
    uint32_t seen = request->argc < says->depth ? request->argc : says->depth;
    const char *theirs = request->argv, *ours = says->words;
    if (seen != says->count + 1)
        return false;
    for (uint32_t i = 0; i < says->count; i++, ours = next_string(ours)) {
        theirs = next_string(theirs);
        if (strcmp(theirs, ours) != 0)
            return false;
    }
    return true;
}

static uint64_t nanoseconds(const struct timespec *time)
{
    return (uint64_t)time->tv_sec * 1000000000u + (uint64_t)time->tv_nsec;
}

static bool same_state(const struct file_state *decided, const struct stat *now)
{
    return decided->inode == (uint64_t)now->st_ino && decided->device == (uint64_t)now->st_dev &&
           decided->size == (uint64_t)now->st_size && decided->modified == nanoseconds(&now->st_mtim) &&
           decided->changed == nanoseconds(&now->st_ctim);
}

/* The name that the kernel has for an open file; empty if that is too long. */
static void name_of(int descriptor, char name[PATH_BYTES_MAX + 1])
{
    struct text link;
    text_start(&link);
    text_add(&link, "/proc/self/fd/");
    text_number(&link, descriptor);
    link.bytes[link.used] = '\0';
    ssize_t length = readlink(link.bytes, name, PATH_BYTES_MAX + 1);
    name[length > 0 && length <= (ssize_t)PATH_BYTES_MAX ? length : 0] = '\0';
}

/* The answer to a request, if there is one: the very name, the very file by the very path, as it was when it was decided,
 * and the words that were looked at. */
static const struct answer *find_answer(const struct request *request, int program)
{
    char name[PATH_BYTES_MAX + 1];
    struct stat status;
    bool looked = false;
    for (const struct answer *answer = *bucket_of(request->file); answer != NULL; answer = answer->next) {
        if (strcmp(answer->says.file, request->file) != 0 || !same_words(&answer->says, request))
            continue;
        if (!looked && fstat(program, &status) != 0)
            return NULL;
        if (!looked)
            name_of(program, name);
        looked = true;
        if (same_state(&answer->says.program, &status) && strcmp(answer->says.resolved, name) == 0)
            return answer;
    }
    return NULL;
}

/* Reads one whole request with its program, and nothing besides. `request` points into `bytes` then. */
static bool read_request(const uint8_t *bytes, size_t count, const struct descriptors *received, struct request *request)
{
    size_t length = count < FRAME_HEAD ? 0
                    : (size_t)bytes[0] | (size_t)bytes[1] << 8 | (size_t)bytes[2] << 16 | (size_t)bytes[3] << 24;
    return length >= 1 && length == count - (FRAME_HEAD - 1) && bytes[FRAME_HEAD - 1] == FRAME_REQUEST &&
           decode_request(bytes + FRAME_HEAD, count - FRAME_HEAD, request) &&
           request_descriptors(request) == received->count && (request->flags & REQUEST_PROGRAM) != 0;
}

/* As find_answer, for what was received: NULL also for what is not one whole request with its program. */
static const struct answer *answer_to(const uint8_t *bytes, size_t count, const struct descriptors *received)
{
    struct request request;
    return read_request(bytes, count, received, &request) ? find_answer(&request, received->numbers[0]) : NULL;
}

/* The server takes no other stream either. */
static bool is_stream(int descriptor)
{
    int domain, type;
    socklen_t size = sizeof domain, other = sizeof type;
    return getsockopt(descriptor, SOL_SOCKET, SO_DOMAIN, &domain, &size) == 0 && domain == AF_UNIX &&
           getsockopt(descriptor, SOL_SOCKET, SO_TYPE, &type, &other) == 0 && type == SOCK_STREAM;
}

/* Tells the server what was escalated, for its records: with the next frame, or when there is enough of it. */
static void tell_taken(struct supervisor *supervisor, const struct answer *answer, const struct request *request)
{
    static uint8_t frame[FRAME_HEAD + TAKEN_MAX];
    queue_frame(supervisor, frame,
                encode_taken(frame, sizeof frame, answer->says.number, request->argc, request->argv));
    if (supervisor->queued > TOLD_LATER_MAX)
        tell_server(supervisor, frame, 0);
}

/* What was looked at is taken now, and looked at again: whoever made the stream can have made the two differ (socket(7),
 * SO_PEEK_OFF). What is not the same any more is dropped. Returns whether the stream was taken over. */
static bool escalate(struct supervisor *supervisor, int stream, const uint8_t *bytes, size_t count,
                     struct descriptors *received)
{
    struct request_received taken = {.stream = stream, .payload = malloc(count), .descriptors = *received};
    bool done = false;
    if (taken.payload != NULL) {
        memcpy(taken.payload, bytes, count);
        const struct answer *answer = NULL;
        if (read_request(taken.payload, count, received, &taken.request))
            answer = find_answer(&taken.request, received->numbers[0]);
        if (answer != NULL && answer->says.answer == FRAME_ESCALATE) {
            tell_taken(supervisor, answer, &taken.request);
            done = session_stands(supervisor, &answer->says, &taken);
        }
    }
    if (done)
        return true;
    free(taken.payload);
    close_descriptors(received);
    return false;
}

enum what_came { PASS_ON, ANSWERED, TAKEN_OVER };

/* Looks at the request on this stream, and answers it if it can be. */
static enum what_came answer_stream(struct supervisor *supervisor, int stream)
{
    static uint8_t bytes[REQUEST_ROOM];
    struct descriptors received;
    uint8_t frame[FRAME_HEAD];
    if (answers.count == 0 || now_ns() >= answers.until || !is_stream(stream))
        return PASS_ON;
    ssize_t got = peek_message(stream, bytes, sizeof bytes, &received);
    if (got < 0)
        return PASS_ON;
    const struct answer *answer = answer_to(bytes, (size_t)got, &received);
    close_descriptors(&received);
    if (answer == NULL || (answer->says.answer == FRAME_ESCALATE && !sessions_may_begin(supervisor)))
        return PASS_ON;
    /* Taken also for its own sake: a stream that is closed with something unread looks broken to its other end. */
    got = receive_message(stream, bytes, sizeof bytes, &received);
    if (got <= 0)
        return ANSWERED;
    if (answer->says.answer == FRAME_ESCALATE)
        return escalate(supervisor, stream, bytes, (size_t)got, &received) ? TAKEN_OVER : ANSWERED;
    close_descriptors(&received);
    struct iovec piece = {frame, encode_empty(frame, sizeof frame, FRAME_RUN)};
    send_message(stream, &piece, 1, NULL, 0, true); /* it has room, or was filled by who is not to be answered */
    supervisor->answered++;
    return ANSWERED;
}

/* ---- the rendezvous ------------------------------------------------------------------------------------------- */

int standing_interpose(struct supervisor *supervisor, int outer)
{
    int ends[2];
    if (!packet_pair(ends)) {
        close(outer);
        return -1;
    }
    supervisor->inner = ends[0];
    supervisor->outer = outer;
    return ends[1];
}

void standing_end(struct supervisor *supervisor)
{
    close_if_open(&supervisor->inner);
    close_if_open(&supervisor->outer);
    close_if_open(&supervisor->waiting);
    supervisor->rest_until = 0;
    forget_all();
    answers.generation = 0;
    answers.until = 0;
}

/* Passes the stream on to the server, or keeps it until that can be. */
static void forward(struct supervisor *supervisor)
{
    uint8_t version = PROTOCOL_VERSION;
    struct iovec piece = {&version, 1};
    supervisor->rest_until = 0;
    if (send_once(supervisor->outer, &piece, 1, &supervisor->waiting, 1) == 1 ||
        (errno != EAGAIN && errno != EWOULDBLOCK && errno != ETOOMANYREFS && errno != ENOBUFS) ||
        (errno == ETOOMANYREFS && now_ms() >= supervisor->give_up))
        close_if_open(&supervisor->waiting); /* sent, or it cannot be */
    else if (errno == ETOOMANYREFS || errno == ENOBUFS)
        supervisor->rest_until = now_ms() + REST_MS;
}

/* One datagram, and no more in one turn: it was there before what the server said was read. And a script that asks without
 * end keeps nobody else waiting. */
static void take_one(struct supervisor *supervisor, bool hung_up)
{
    struct descriptors received;
    uint8_t bytes[2];
    ssize_t got = receive_message(supervisor->inner, bytes, sizeof bytes, &received);
    if (got < 0 && (errno == EAGAIN || errno == EWOULDBLOCK))
        return;
    if (got == 1 && bytes[0] == PROTOCOL_VERSION && received.count == 1) {
        supervisor->waiting = received.numbers[0];
        enum what_came came = answer_stream(supervisor, supervisor->waiting);
        if (came == TAKEN_OVER)
            supervisor->waiting = -1;
        if (came == ANSWERED)
            close_if_open(&supervisor->waiting);
        if (came != PASS_ON)
            return;
        supervisor->give_up = now_ms() + FLIGHT_MS;
        tell_server(supervisor, bytes, 0); /* that the shell runs, before it asks */
        forward(supervisor);
        return;
    }
    if (got >= 0)
        close_descriptors(&received);
    if (got <= 0 && hung_up)
        close_if_open(&supervisor->inner); /* nobody is left who could ask */
    else
        supervisor->rest_until = now_ms() + REST_MS;
}

void standing_watch(const struct supervisor *supervisor, struct pollfd polled[STANDING_POLLED])
{
    bool rests = supervisor->rest_until != 0;
    bool waits = supervisor->waiting >= 0;
    polled[0] = (struct pollfd){.fd = rests || waits ? -1 : supervisor->inner, .events = POLLIN};
    polled[1] = (struct pollfd){.fd = waits && !rests ? supervisor->outer : -1, .events = POLLOUT};
}

void standing_serve(struct supervisor *supervisor, const struct pollfd polled[STANDING_POLLED])
{
    bool rested = supervisor->rest_until != 0 && now_ms() >= supervisor->rest_until;
    if (rested)
        supervisor->rest_until = 0;
    if (supervisor->waiting >= 0 && (rested || polled[1].revents != 0))
        forward(supervisor);
    if (supervisor->waiting < 0 && polled[0].revents != 0)
        take_one(supervisor, (polled[0].revents & POLLHUP) != 0);
}

int standing_patience(const struct supervisor *supervisor)
{
    if (supervisor->rest_until == 0)
        return -1;
    int64_t left = supervisor->rest_until - now_ms();
    return left > 0 ? (int)left : 0;
}
