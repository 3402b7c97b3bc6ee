#include "describe_frames.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* What has been said so far, and the frame as it came, to compare with. */
struct buffer {
    uint8_t *bytes;
    size_t size, room;
};

static struct buffer said, original;

static const char *const readers[] = {"client", "service", "server", "supervisor", "anyone"};
static const char *const states[] = {"start", "asked", "running", "handing-over", "handed-over", "attached", "done",
                                     "waiting", "start", "running", "shell-ended", "keeping", "kept", "failed", "ending", "done"};

static void append(struct buffer *buffer, const void *bytes, size_t count)
{
    if (buffer->room - buffer->size < count) {
        buffer->room = 2 * (buffer->size + count);
        buffer->bytes = realloc(buffer->bytes, buffer->room);
        if (buffer->bytes == NULL)
            abort();
    }
    if (count > 0)
        memcpy(buffer->bytes + buffer->size, bytes, count);
    buffer->size += count;
}

static void say(const char *format, ...) __attribute__((format(printf, 1, 2)));

static void say(const char *format, ...)
{
    char piece[256];
    va_list values;
    va_start(values, format);
    int length = vsnprintf(piece, sizeof piece, format, values);
    va_end(values);
    append(&said, piece, (size_t)length);
}

static bool fail(const char *what)
{
    say("error: %s\n", what);
    return false;
}

static void print_bytes(const char *bytes, size_t length)
{
    static const char plain[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_./=:-";
    static const char digits[] = "0123456789ABCDEF";
    for (size_t i = 0; i < length; i++)
        if (bytes[i] != '\0' && strchr(plain, bytes[i]) != NULL)
            append(&said, bytes + i, 1);
        else
            append(&said, (char[]){'%', digits[(uint8_t)bytes[i] >> 4], digits[bytes[i] & 15]}, 3);
}

static void print_strings(const char *name, const char *strings, uint32_t count)
{
    say(" %s=", name);
    for (uint32_t i = 0; i < count; i++, strings = next_string(strings)) {
        if (i > 0)
            say(",");
        print_bytes(strings, strlen(strings));
    }
    say(";");
}

static bool compare(const uint8_t *encoded, size_t size)
{
    say("\n");
    if (size != original.size || memcmp(encoded, original.bytes, size) != 0)
        return fail(ENCODED_DIFFERENTLY);
    return true;
}

static bool compare_head(const uint8_t *head, size_t size, struct text_span strings)
{
    say("\n");
    if (size == 0 || size + strings.length != original.size || memcmp(head, original.bytes, size) != 0 ||
        memcmp(strings.bytes, original.bytes + size, strings.length) != 0)
        return fail(ENCODED_DIFFERENTLY);
    return true;
}

static void print_request(const struct request *request)
{
    say(" flags=%u umask=%" PRIu32 " file=", (unsigned)request->flags, request->umask);
    print_bytes(request->file, strlen(request->file));
    say(" cwd=");
    print_bytes(request->cwd, strlen(request->cwd));
    print_strings("argv", request->argv, request->argc);
    print_strings("env", request->env, request->envc);
}

static bool show_request(const uint8_t *payload, size_t length)
{
    struct request request;
    uint8_t head[REQUEST_HEAD];
    if (!decode_request(payload, length, &request))
        return fail("not a request");
    say("REQUEST descriptors=%" PRIu32, request_descriptors(&request));
    print_request(&request);
    return compare_head(head, encode_request_head(head, &request, request.strings.length), request.strings);
}

static bool show_spawn(const uint8_t *payload, size_t length)
{
    struct spawn spawn;
    uint8_t head[SPAWN_HEAD];
    if (!decode_spawn(payload, length, &spawn))
        return fail("not a spawn");
    say("SPAWN descriptors=%" PRIu32 " session=%" PRIu32, spawn_descriptors(&spawn), spawn.session);
    say(" size=%" PRIu64 " modified=%" PRIu64 " changed=%" PRIu64, spawn.size, spawn.modified, spawn.changed);
    print_request(&spawn.what);
    return compare_head(head, encode_spawn_head(head, &spawn, spawn.what.strings.length), spawn.what.strings);
}

static bool show_start(const uint8_t *payload, size_t length)
{
    struct start start;
    if (!decode_start(payload, length, &start))
        return fail("not a start");
    say("START descriptors=2 cwd=");
    print_bytes(start.cwd, strlen(start.cwd));
    print_strings("argv", start.argv, start.argc);
    print_strings("env", start.env, start.envc);
    say("\n");
    return true; /* only a server sends it, which is not written in C */
}

static bool show_empty(const char *name, enum frame_type type)
{
    uint8_t frame[FRAME_HEAD];
    say("%s", name);
    return compare(frame, encode_empty(frame, sizeof frame, type));
}

static bool show_reason(const char *name, enum frame_type type, const uint8_t *payload, size_t length)
{
    struct text_span reason;
    static uint8_t frame[FRAME_HEAD + REASON_MAX];
    if (!decode_reason(payload, length, &reason))
        return fail("not a reason");
    say("%s reason=", name);
    print_bytes(reason.bytes, reason.length);
    return compare(frame, encode_reason(frame, sizeof frame, type, reason));
}

static bool show_number(const char *name, enum frame_type type, const uint8_t *payload, size_t length)
{
    uint32_t number;
    uint8_t frame[FRAME_HEAD + 4];
    bool signal = type == FRAME_SIGNAL || type == FRAME_STOPPED;
    if (!(signal ? decode_signal : decode_number)(payload, length, &number))
        return fail("not a number, or not a signal");
    say("%s number=%" PRIu32, name, number);
    return compare(frame, encode_number(frame, sizeof frame, type, number));
}

static bool show_fds(const uint8_t *payload, size_t length)
{
    struct fds fds;
    uint8_t frame[FRAME_HEAD + 8 + 4 * PART_MAX];
    if (!decode_fds(payload, length, &fds))
        return fail("not descriptors");
    say("FDS total=%" PRIu32 " numbers=", fds.total);
    for (uint32_t i = 0; i < fds.count; i++)
        say("%s%" PRIu32, i > 0 ? "," : "", fds.numbers[i]);
    say(";");
    return compare(frame, encode_fds(frame, sizeof frame, fds.total, fds.numbers, fds.count));
}

static bool show_attributes(const uint8_t *payload, size_t length)
{
    struct attributes attributes;
    uint8_t frame[FRAME_HEAD + 28 + 20 * LIMITS_MAX];
    if (!decode_attributes(payload, length, &attributes))
        return fail("not attributes");
    say("ATTRIBUTES flags=%" PRIu32 " nice=%" PRId32 " blocked=%" PRIu64 " ignored=%" PRIu64 " limits=",
           attributes.flags, attributes.nice, attributes.blocked, attributes.ignored);
    for (uint32_t i = 0; i < attributes.count; i++)
        say("%s%" PRIu32 ":%" PRIu64 ":%" PRIu64, i > 0 ? "," : "", attributes.limits[i].resource,
               attributes.limits[i].soft, attributes.limits[i].hard);
    say(";");
    return compare(frame, encode_attributes(frame, sizeof frame, &attributes));
}

static bool show_exit(const char *name, enum frame_type type, const uint8_t *payload, size_t length)
{
    struct outcome outcome;
    uint8_t frame[FRAME_HEAD + 5];
    if (!(type == FRAME_SHELL_EXIT ? decode_shell_exit : decode_exit)(payload, length, &outcome))
        return fail("not an end");
    say("%s kind=%d value=%" PRIu32, name, (int)outcome.kind, outcome.value);
    return compare(frame, encode_exit(frame, sizeof frame, type, outcome));
}

static bool show_started(const uint8_t *payload, size_t length)
{
    uint32_t session, pid;
    uint8_t frame[FRAME_HEAD + 8];
    if (!decode_started(payload, length, &session, &pid))
        return fail("not a start");
    say("STARTED session=%" PRIu32 " pid=%" PRIu32, session, pid);
    return compare(frame, encode_started(frame, sizeof frame, session, pid));
}

static bool show_ended(const uint8_t *payload, size_t length)
{
    uint32_t session;
    struct outcome outcome;
    uint8_t frame[FRAME_HEAD + 9];
    if (!decode_ended(payload, length, &session, &outcome))
        return fail("not an end");
    say("ENDED session=%" PRIu32 " kind=%d value=%" PRIu32, session, (int)outcome.kind, outcome.value);
    return compare(frame, encode_ended(frame, sizeof frame, session, outcome));
}

static bool show_shell_failed(const uint8_t *payload, size_t length)
{
    uint32_t error;
    struct text_span message;
    static uint8_t frame[FRAME_HEAD + 4 + REASON_MAX];
    if (!decode_shell_failed(payload, length, &error, &message))
        return fail("not a failure");
    say("SHELL_FAILED errno=%" PRIu32 " message=", error);
    print_bytes(message.bytes, message.length);
    return compare(frame, encode_shell_failed(frame, sizeof frame, error, message));
}

static bool show_standing(const uint8_t *payload, size_t length)
{
    struct standing standing;
    uint8_t head[STANDING_HEAD];
    if (!decode_standing(payload, length, &standing))
        return fail("not a standing answer");
    say("STANDING generation=%" PRIu32 " number=%" PRIu32, standing.generation, standing.number);
    say(" until=%" PRIu64 " answer=%u", standing.until, (unsigned)standing.answer);
    say(" device=%" PRIu64 " inode=%" PRIu64, standing.program.device, standing.program.inode);
    say(" size=%" PRIu64, standing.program.size);
    say(" modified=%" PRIu64 " changed=%" PRIu64, standing.program.modified, standing.program.changed);
    say(" depth=%" PRIu32 " file=", standing.depth);
    print_bytes(standing.file, strlen(standing.file));
    say(" resolved=");
    print_bytes(standing.resolved, strlen(standing.resolved));
    print_strings("words", standing.words, standing.count);
    return compare_head(head, encode_standing_head(head, &standing, standing.strings.length), standing.strings);
}

static bool show_hold(const uint8_t *payload, size_t length)
{
    uint32_t generation;
    uint64_t until;
    uint8_t frame[FRAME_HEAD + 12];
    if (!decode_hold(payload, length, &generation, &until))
        return fail("not a renewal");
    say("HOLD generation=%" PRIu32 " until=%" PRIu64, generation, until);
    return compare(frame, encode_hold(frame, sizeof frame, generation, until));
}

static bool show_taken(const uint8_t *payload, size_t length)
{
    struct taken taken;
    static uint8_t frame[FRAME_HEAD + TAKEN_MAX];
    if (!decode_taken(payload, length, &taken))
        return fail("not a request that was taken");
    say("TAKEN number=%" PRIu32, taken.number);
    print_strings("argv", taken.argv, taken.argc);
    return compare(frame, encode_taken(frame, sizeof frame, taken.number, taken.argc, taken.argv));
}

static bool show_answered(const uint8_t *payload, size_t length)
{
    uint64_t total;
    uint8_t frame[FRAME_HEAD + 8];
    if (!decode_answered(payload, length, &total))
        return fail("not a count");
    say("ANSWERED total=%" PRIu64, total);
    return compare(frame, encode_answered(frame, sizeof frame, total));
}

static bool show(const struct decoder *decoder)
{
    const uint8_t *payload = decoder->payload;
    size_t length = decoder->length;
    switch ((enum frame_type)decoder->type) {
    case FRAME_REQUEST: return show_request(payload, length);
    case FRAME_RUN: return show_empty("RUN", FRAME_RUN);
    case FRAME_ESCALATE: return show_empty("ESCALATE", FRAME_ESCALATE);
    case FRAME_DENY: return show_reason("DENY", FRAME_DENY, payload, length);
    case FRAME_ERROR: return show_reason("ERROR", FRAME_ERROR, payload, length);
    case FRAME_EXEC_FAILED: return show_number("EXEC_FAILED", FRAME_EXEC_FAILED, payload, length);
    case FRAME_FDS: return show_fds(payload, length);
    case FRAME_ATTRIBUTES: return show_attributes(payload, length);
    case FRAME_SIGNAL: return show_number("SIGNAL", FRAME_SIGNAL, payload, length);
    case FRAME_STOPPED: return show_number("STOPPED", FRAME_STOPPED, payload, length);
    case FRAME_CONTINUED: return show_empty("CONTINUED", FRAME_CONTINUED);
    case FRAME_EXIT: return show_exit("EXIT", FRAME_EXIT, payload, length);
    case FRAME_SPAWN: return show_spawn(payload, length);
    case FRAME_STARTED: return show_started(payload, length);
    case FRAME_ENDED: return show_ended(payload, length);
    case FRAME_SHELL_STARTED: return show_number("SHELL_STARTED", FRAME_SHELL_STARTED, payload, length);
    case FRAME_SHELL_FAILED: return show_shell_failed(payload, length);
    case FRAME_SHELL_EXIT: return show_exit("SHELL_EXIT", FRAME_SHELL_EXIT, payload, length);
    case FRAME_END: return show_empty("END", FRAME_END);
    case FRAME_FINISHED: return show_number("FINISHED", FRAME_FINISHED, payload, length);
    case FRAME_KEEP: return show_empty("KEEP", FRAME_KEEP);
    case FRAME_KEPT: return show_number("KEPT", FRAME_KEPT, payload, length);
    case FRAME_STANDING: return show_standing(payload, length);
    case FRAME_HOLD: return show_hold(payload, length);
    case FRAME_TAKEN: return show_taken(payload, length);
    case FRAME_ANSWERED: return show_answered(payload, length);
    case FRAME_IDLE: return show_empty("IDLE", FRAME_IDLE);
    case FRAME_START: return show_start(payload, length);
    }
    return fail("a frame of unknown type was reported");
}

/* Payloads of exactly their size, so that a sanitiser sees a read beyond one. */
static uint8_t *allocate(size_t size)
{
    return malloc(size);
}

static void leave_behind(struct decoder *decoder)
{
    free(decoder->payload);
    decoder->payload = NULL;
    decoder->capacity = 0;
    original.size = 0;
}

/* Feeds one piece, copied to where nothing lies behind it. */
static bool decode(struct decoder *decoder, const uint8_t *input, size_t count)
{
    bool fine = true;
    uint8_t *piece = malloc(count);
    if (piece == NULL)
        abort();
    memcpy(piece, input, count);
    for (size_t from = 0, used; fine && from < count; from += used) {
        enum decoder_result result = decoder_feed(decoder, piece + from, count - from, &used);
        append(&original, piece + from, used);
        if (result == DECODER_BROKEN)
            fine = fail(decoder->problem);
        if (result == DECODER_FRAME) {
            fine = show(decoder);
            leave_behind(decoder);
        }
    }
    free(piece);
    return fine;
}

bool describe(const uint8_t *input, size_t size, size_t chunk, struct place place)
{
    struct decoder decoder;
    bool fine = true;
    said.size = 0;
    decoder_start(&decoder, place.reader, place.state, NULL, 0);
    decoder.allocate = allocate;
    for (size_t at = 0; fine && at < size; at += chunk)
        fine = decode(&decoder, input + at, chunk < size - at ? chunk : size - at);
    if (fine && !decoder_at_start(&decoder))
        fine = fail("the end in the middle of a frame");
    leave_behind(&decoder);
    if (fine)
        say("state %s\n", states[decoder.state]);
    return fine;
}

const char *description(size_t *size)
{
    *size = said.size;
    return (const char *)said.bytes;
}

static bool find(const char *name, size_t length, const char *const *names, size_t from, size_t to, size_t *found)
{
    for (*found = from; *found < to; ++*found)
        if (strlen(names[*found]) == length && memcmp(names[*found], name, length) == 0)
            return true;
    return false;
}

bool find_place(const char *name, struct place *place)
{
    size_t length = strcspn(name, ":"), reader, state;
    if (!find(name, length, readers, 0, sizeof readers / sizeof *readers, &reader))
        return false;
    bool control = reader == READER_SERVER || reader == READER_SUPERVISOR;
    size_t first = control ? CONTROL_WAITING : STATE_START, last = control ? CONTROL_DONE : STATE_DONE;
    const char *named = name[length] == ':' ? name + length + 1 : states[control ? CONTROL_START : STATE_START];
    if (!find(named, strlen(named), states, first, last + 1, &state))
        return false;
    *place = (struct place){(enum reader)reader, (enum session_state)state};
    return true;
}
