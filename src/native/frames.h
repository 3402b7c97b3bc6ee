/* The wire format of docs/protocol.md, version 1, without any input or output: bytes in, frames out, a state table.
 *
 * A decoder is one reading end of an exec session or of a control channel. It says where the next bytes are to be put
 * (decoder_space), takes note of what came (decoder_took), and reports each whole frame once. It never asks for bytes
 * beyond the current frame, so that descriptors stay with the frame they rode in on. Payloads are then read with the
 * decode functions, each of which checks everything docs/protocol.md says about its frame.
 *
 * The encode functions write one whole frame and return its size, or 0 if it does not fit the room given.
 */
#ifndef CODEX_FRAMES_H
#define CODEX_FRAMES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* The single byte of the rendezvous datagram. */
#define PROTOCOL_VERSION 1

/* u32 length and u8 type. */
#define FRAME_HEAD 5

/* Largest length field: the kernel's ceiling for argv and environment (execve(2): 6 MiB) plus slack for numbers and paths. */
#define LENGTH_MAX 6356992u

/* Largest payload of a REQUEST: what is escalated must fit a SPAWN, which says a little more. */
#define REQUEST_PAYLOAD_MAX (LENGTH_MAX - 8192u)

/* Longest path in bytes: the kernel takes no longer one (path_resolution(7): PATH_MAX less the NUL). */
#define PATH_BYTES_MAX 4095u

/* Longest reason: a line for a person; more is a mistake or an attack. */
#define REASON_MAX 65536u

/* Most arguments, and most environment entries. */
#define STRINGS_MAX 1048576u

/* SCM_RIGHTS takes no more in one message (unix(7), SCM_MAX_FD). */
#define PART_MAX 253u

/* Most descriptors handed over in one session: four times the usual soft limit. */
#define DESCRIPTORS_MAX 4096u

/* Most resource limits in ATTRIBUTES: twice what any supported kernel has. */
#define LIMITS_MAX 32u

/* Highest signal number on any supported kernel. */
#define SIGNAL_MAX 64u

/* Largest payload of a STANDING: two of the longest paths, and words that rules name; what is longer is asked about. */
#define STANDING_MAX 16384u

/* Most words that a STANDING names: no rule is that long. */
#define STANDING_WORDS_MAX 64u

/* Words of an argument vector that TAKEN tells, and bytes of each: it can be megabytes. */
#define TAKEN_WORDS_MAX 64u
#define TAKEN_BYTES_MAX 512u
#define TAKEN_MAX (8u + TAKEN_WORDS_MAX * (TAKEN_BYTES_MAX + 1u))

/* "No limit" in ATTRIBUTES. */
#define UNLIMITED UINT64_MAX

/* Largest payload a client can be sent, and a supervisor by a client: room for fixed buffers. */
#define CLIENT_PAYLOAD_MAX REASON_MAX
#define STREAM_PAYLOAD_MAX (8u + 4u * PART_MAX)

/* Bytes of a whole ATTRIBUTES. */
#define ATTRIBUTES_FRAME_MAX (FRAME_HEAD + 28u + 20u * LIMITS_MAX)

/* Bytes before the strings of a REQUEST, a SPAWN and a STANDING, header included. */
#define REQUEST_HEAD (FRAME_HEAD + 13u)
#define SPAWN_HEAD (FRAME_HEAD + 41u)
#define STANDING_HEAD (FRAME_HEAD + 65u)

enum frame_type {
    FRAME_REQUEST = 1, FRAME_RUN, FRAME_ESCALATE, FRAME_DENY, FRAME_ERROR, FRAME_EXEC_FAILED, FRAME_FDS,
    FRAME_ATTRIBUTES, FRAME_SIGNAL, FRAME_STOPPED, FRAME_CONTINUED, FRAME_EXIT,
    FRAME_SPAWN = 32, FRAME_STARTED, FRAME_ENDED, FRAME_SHELL_STARTED, FRAME_SHELL_FAILED, FRAME_SHELL_EXIT, FRAME_END,
    FRAME_FINISHED, FRAME_KEEP, FRAME_KEPT, FRAME_STANDING, FRAME_HOLD, FRAME_ANSWERED,
    FRAME_TAKEN,
    FRAME_START = 50, FRAME_IDLE
};

/* Who reads. On a stream the service is the server and, once it has handed the session over, the supervisor. */
enum reader { READER_CLIENT, READER_SERVICE, READER_SERVER, READER_SUPERVISOR, READER_ANYONE };

enum session_state {
    /* an exec session */
    STATE_START, STATE_ASKED, STATE_RUNNING, STATE_HANDING_OVER, STATE_HANDED_OVER, STATE_ATTACHED, STATE_DONE,
    /* a control channel */
    CONTROL_WAITING, CONTROL_START, CONTROL_RUNNING, CONTROL_SHELL_ENDED, CONTROL_KEEPING, CONTROL_KEPT, CONTROL_FAILED, CONTROL_ENDING,
    CONTROL_DONE
};

enum outcome_kind { OUTCOME_EXITED = 0, OUTCOME_SIGNALLED = 1, OUTCOME_NOT_STARTED = 2 };

#define REQUEST_PROGRAM 1u
#define REQUEST_CWD 2u
#define REQUEST_ASK 4u
#define SPAWN_PROGRAM 1u
#define SPAWN_CWD 2u
#define SPAWN_BY_PATH 4u
#define ATTRIBUTE_TERMINAL 1u

enum decoder_result { DECODER_MORE, DECODER_FRAME, DECODER_BROKEN };

struct decoder {
    enum reader reader;
    enum session_state state;
    uint8_t head[FRAME_HEAD];
    size_t head_have;
    uint8_t type;           /* of the frame just reported */
    uint8_t *payload;       /* its payload, valid until decoder_space is called again */
    size_t length;          /* of the payload */
    size_t have;
    size_t capacity;        /* of payload */
    uint8_t *(*allocate)(size_t); /* where payloads come from that do not fit; NULL: such a frame is refused */
    bool whole;             /* a frame was reported and not yet left behind */
    bool parts_begun;       /* FDS: a part has come */
    uint32_t parts_total;
    uint32_t parts_have;
    const char *problem;    /* after DECODER_BROKEN: what was wrong */
};

/* The payload area may be given at the start (payload, capacity), or come from allocate, or both. */
void decoder_start(struct decoder *decoder, enum reader reader, enum session_state state, uint8_t *payload,
                   size_t capacity);

/* Where the next bytes belong, and how many at most; never 0. Descriptors may come only when decoder_at_start. */
uint8_t *decoder_space(struct decoder *decoder, size_t *room);
enum decoder_result decoder_took(struct decoder *decoder, size_t count);
bool decoder_at_start(const struct decoder *decoder);

/* Feeds from a buffer up to the end of one frame; *used says how much was taken. */
enum decoder_result decoder_feed(struct decoder *decoder, const uint8_t *bytes, size_t count, size_t *used);

struct text_span {
    const char *bytes;
    size_t length;
};

struct request {
    uint8_t flags;
    uint32_t umask, argc, envc;
    const char *file, *cwd;   /* NUL-terminated */
    const char *argv, *env;   /* argc and envc strings, one behind the other */
    struct text_span strings; /* all of them */
};

struct spawn {
    uint32_t session;
    uint64_t size, modified, changed; /* of the program when it was decided; times in nanoseconds */
    struct request what; /* file is the path; flags are SPAWN_ ones */
};

/* The rest of a supervisor's command line. */
struct start {
    uint32_t argc, envc;
    const char *cwd;
    const char *argv, *env; /* argc and envc strings, one behind the other */
};

/* What fstat says of a program; times in nanoseconds. */
struct file_state {
    uint64_t device, inode, size, modified, changed;
};

struct standing {
    uint32_t generation, number;
    uint64_t until; /* nanoseconds of the monotonic clock */
    uint8_t answer; /* FRAME_RUN or FRAME_ESCALATE */
    struct file_state program;
    uint32_t depth, count;
    const char *file, *resolved, *words; /* NUL-terminated; `count` words, one behind the other */
    struct text_span strings;            /* all of them */
};

struct taken {
    uint32_t number, argc;
    const char *argv; /* argc strings, one behind the other */
};

struct fds {
    uint32_t total, count;
    uint32_t numbers[PART_MAX];
};

struct resource_limit {
    uint32_t resource;
    uint64_t soft, hard;
};

struct attributes {
    uint32_t flags;
    int32_t nice;
    uint64_t blocked, ignored;
    uint32_t count;
    struct resource_limit limits[LIMITS_MAX];
};

struct outcome {
    enum outcome_kind kind;
    uint32_t value;
};

bool decode_request(const uint8_t *payload, size_t length, struct request *request);
bool decode_spawn(const uint8_t *payload, size_t length, struct spawn *spawn);
bool decode_start(const uint8_t *payload, size_t length, struct start *start);
bool decode_fds(const uint8_t *payload, size_t length, struct fds *fds);
bool decode_attributes(const uint8_t *payload, size_t length, struct attributes *attributes);
bool decode_reason(const uint8_t *payload, size_t length, struct text_span *reason);
bool decode_number(const uint8_t *payload, size_t length, uint32_t *number);
bool decode_signal(const uint8_t *payload, size_t length, uint32_t *signal);
bool decode_exit(const uint8_t *payload, size_t length, struct outcome *outcome);
bool decode_shell_exit(const uint8_t *payload, size_t length, struct outcome *outcome);
bool decode_started(const uint8_t *payload, size_t length, uint32_t *session, uint32_t *pid);
bool decode_ended(const uint8_t *payload, size_t length, uint32_t *session, struct outcome *outcome);
bool decode_shell_failed(const uint8_t *payload, size_t length, uint32_t *error, struct text_span *message);
bool decode_standing(const uint8_t *payload, size_t length, struct standing *standing);
bool decode_hold(const uint8_t *payload, size_t length, uint32_t *generation, uint64_t *until);
bool decode_taken(const uint8_t *payload, size_t length, struct taken *taken);
bool decode_answered(const uint8_t *payload, size_t length, uint64_t *total);

/* How many descriptors belong to a frame, by its flags or count. Only REQUEST, SPAWN and FDS have any. */
uint32_t request_descriptors(const struct request *request);
uint32_t spawn_descriptors(const struct spawn *spawn);

/* The string behind this one. */
const char *next_string(const char *string);

size_t encode_empty(uint8_t *to, size_t room, enum frame_type type);
size_t encode_number(uint8_t *to, size_t room, enum frame_type type, uint32_t number);
size_t encode_reason(uint8_t *to, size_t room, enum frame_type type, struct text_span reason);
size_t encode_exit(uint8_t *to, size_t room, enum frame_type type, struct outcome outcome);
size_t encode_fds(uint8_t *to, size_t room, uint32_t total, const uint32_t *numbers, uint32_t count);
size_t encode_attributes(uint8_t *to, size_t room, const struct attributes *attributes);
size_t encode_started(uint8_t *to, size_t room, uint32_t session, uint32_t pid);
size_t encode_ended(uint8_t *to, size_t room, uint32_t session, struct outcome outcome);
size_t encode_shell_failed(uint8_t *to, size_t room, uint32_t error, struct text_span message);
size_t encode_hold(uint8_t *to, size_t room, uint32_t generation, uint64_t until);
/* As much as may be told of `argc` strings. */
size_t encode_taken(uint8_t *to, size_t room, uint32_t number, uint32_t argc, const char *argv);
size_t encode_answered(uint8_t *to, size_t room, uint64_t total);

/* What comes before the strings, which the caller sends from where they lie: `strings` is their size, each with its NUL.
 * Returns 0 also where the whole frame would exceed LENGTH_MAX (a REQUEST: REQUEST_PAYLOAD_MAX) or the counts
 * STRINGS_MAX. */
size_t encode_request_head(uint8_t to[REQUEST_HEAD], const struct request *request, size_t strings);
size_t encode_spawn_head(uint8_t to[SPAWN_HEAD], const struct spawn *spawn, size_t strings);
size_t encode_standing_head(uint8_t to[STANDING_HEAD], const struct standing *standing, size_t strings);

#endif
