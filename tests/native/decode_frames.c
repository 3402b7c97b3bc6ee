/* Test driver of src/native/frames.c: reads frames on stdin and says what they are.
 *
 *     decode_frames CHUNK READER[:STATE]
 *
 * CHUNK is how many bytes the decoder gets at a time. READER is client, service, server, supervisor or anyone (who takes
 * every frame at any time); STATE is a state of that session ("asked", "handing-over", ...), by default its first.
 *
 * One line for each frame: its name and its fields as NAME=VALUE; bytes other than letters, digits and _./=:,- as %XX;
 * lists separated by commas and closed by ";". After each the driver encodes the frame anew and compares. The last line is
 * "state STATE". What is no frame gives one line "error: ..." and exit status 1.
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "frames.h"

static const char *const readers[] = {"client", "service", "server", "supervisor", "anyone"};
static const char *const states[] = {"start", "asked", "running", "handing-over", "handed-over", "attached", "done",
                                     "start", "running", "shell-ended", "failed", "ending", "done"};

static _Noreturn void fail(const char *what)
{
    printf("error: %s\n", what);
    exit(fflush(stdout) == 0 ? 1 : 2);
}

static void print_bytes(const char *bytes, size_t length)
{
    static const char plain[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_./=:-";
    for (size_t i = 0; i < length; i++)
        if (bytes[i] != '\0' && strchr(plain, bytes[i]) != NULL)
            putchar(bytes[i]);
        else
            printf("%%%02X", (unsigned)(unsigned char)bytes[i]);
}

static void print_strings(const char *name, const char *strings, uint32_t count)
{
    printf(" %s=", name);
    for (uint32_t i = 0; i < count; i++, strings = next_string(strings)) {
        if (i > 0)
            putchar(',');
        print_bytes(strings, strlen(strings));
    }
    putchar(';');
}

/* The frame as it came, to compare with. */
static uint8_t *original;
static size_t original_size, original_room;

static void compare(const uint8_t *encoded, size_t size)
{
    putchar('\n');
    if (size != original_size || memcmp(encoded, original, size) != 0)
        fail("the frame is encoded differently");
}

static void compare_head(const uint8_t *head, size_t size, struct text_span strings)
{
    putchar('\n');
    if (size == 0 || size + strings.length != original_size || memcmp(head, original, size) != 0 ||
        memcmp(strings.bytes, original + size, strings.length) != 0)
        fail("the frame is encoded differently");
}

static void print_request(const struct request *request)
{
    printf(" flags=%u umask=%" PRIu32 " file=", (unsigned)request->flags, request->umask);
    print_bytes(request->file, strlen(request->file));
    printf(" cwd=");
    print_bytes(request->cwd, strlen(request->cwd));
    print_strings("argv", request->argv, request->argc);
    print_strings("env", request->env, request->envc);
}

static void show_request(const uint8_t *payload, size_t length)
{
    struct request request;
    uint8_t head[REQUEST_HEAD];
    if (!decode_request(payload, length, &request))
        fail("not a request");
    printf("REQUEST descriptors=%" PRIu32, request_descriptors(&request));
    print_request(&request);
    compare_head(head, encode_request_head(head, &request, request.strings.length), request.strings);
}

static void show_spawn(const uint8_t *payload, size_t length)
{
    struct spawn spawn;
    uint8_t head[SPAWN_HEAD];
    if (!decode_spawn(payload, length, &spawn))
        fail("not a spawn");
    printf("SPAWN descriptors=%" PRIu32 " session=%" PRIu32, spawn_descriptors(&spawn), spawn.session);
    printf(" size=%" PRIu64 " modified=%" PRIu64 " changed=%" PRIu64, spawn.size, spawn.modified, spawn.changed);
    print_request(&spawn.what);
    compare_head(head, encode_spawn_head(head, &spawn, spawn.what.strings.length), spawn.what.strings);
}

static void show_empty(const char *name, enum frame_type type)
{
    uint8_t frame[FRAME_HEAD];
    printf("%s", name);
    compare(frame, encode_empty(frame, sizeof frame, type));
}

static void show_reason(const char *name, enum frame_type type, const uint8_t *payload, size_t length)
{
    struct text_span reason;
    uint8_t *frame = malloc(FRAME_HEAD + REASON_MAX);
    if (frame == NULL || !decode_reason(payload, length, &reason))
        fail("not a reason");
    printf("%s reason=", name);
    print_bytes(reason.bytes, reason.length);
    compare(frame, encode_reason(frame, FRAME_HEAD + REASON_MAX, type, reason));
    free(frame);
}

static void show_number(const char *name, enum frame_type type, const uint8_t *payload, size_t length)
{
    uint32_t number;
    uint8_t frame[FRAME_HEAD + 4];
    bool signal = type == FRAME_SIGNAL || type == FRAME_STOPPED;
    if (!(signal ? decode_signal : decode_number)(payload, length, &number))
        fail("not a number, or not a signal");
    printf("%s number=%" PRIu32, name, number);
    compare(frame, encode_number(frame, sizeof frame, type, number));
}

static void show_fds(const uint8_t *payload, size_t length)
{
    struct fds fds;
    uint8_t frame[FRAME_HEAD + 8 + 4 * PART_MAX];
    if (!decode_fds(payload, length, &fds))
        fail("not descriptors");
    printf("FDS total=%" PRIu32 " numbers=", fds.total);
    for (uint32_t i = 0; i < fds.count; i++)
        printf("%s%" PRIu32, i > 0 ? "," : "", fds.numbers[i]);
    putchar(';');
    compare(frame, encode_fds(frame, sizeof frame, fds.total, fds.numbers, fds.count));
}

static void show_attributes(const uint8_t *payload, size_t length)
{
    struct attributes attributes;
    uint8_t frame[FRAME_HEAD + 28 + 20 * LIMITS_MAX];
    if (!decode_attributes(payload, length, &attributes))
        fail("not attributes");
    printf("ATTRIBUTES flags=%" PRIu32 " nice=%" PRId32 " blocked=%" PRIu64 " ignored=%" PRIu64 " limits=",
           attributes.flags, attributes.nice, attributes.blocked, attributes.ignored);
    for (uint32_t i = 0; i < attributes.count; i++)
        printf("%s%" PRIu32 ":%" PRIu64 ":%" PRIu64, i > 0 ? "," : "", attributes.limits[i].resource,
               attributes.limits[i].soft, attributes.limits[i].hard);
    putchar(';');
    compare(frame, encode_attributes(frame, sizeof frame, &attributes));
}

static void show_exit(const char *name, enum frame_type type, const uint8_t *payload, size_t length)
{
    struct outcome outcome;
    uint8_t frame[FRAME_HEAD + 5];
    if (!(type == FRAME_SHELL_EXIT ? decode_shell_exit : decode_exit)(payload, length, &outcome))
        fail("not an end");
    printf("%s kind=%d value=%" PRIu32, name, (int)outcome.kind, outcome.value);
    compare(frame, encode_exit(frame, sizeof frame, type, outcome));
}

static void show_started(const uint8_t *payload, size_t length)
{
    uint32_t session, pid;
    uint8_t frame[FRAME_HEAD + 8];
    if (!decode_started(payload, length, &session, &pid))
        fail("not a start");
    printf("STARTED session=%" PRIu32 " pid=%" PRIu32, session, pid);
    compare(frame, encode_started(frame, sizeof frame, session, pid));
}

static void show_ended(const uint8_t *payload, size_t length)
{
    uint32_t session;
    struct outcome outcome;
    uint8_t frame[FRAME_HEAD + 9];
    if (!decode_ended(payload, length, &session, &outcome))
        fail("not an end");
    printf("ENDED session=%" PRIu32 " kind=%d value=%" PRIu32, session, (int)outcome.kind, outcome.value);
    compare(frame, encode_ended(frame, sizeof frame, session, outcome));
}

static void show_shell_failed(const uint8_t *payload, size_t length)
{
    uint32_t error;
    struct text_span message;
    size_t room = FRAME_HEAD + 4 + REASON_MAX;
    uint8_t *frame = malloc(room);
    if (frame == NULL || !decode_shell_failed(payload, length, &error, &message))
        fail("not a failure");
    printf("SHELL_FAILED errno=%" PRIu32 " message=", error);
    print_bytes(message.bytes, message.length);
    compare(frame, encode_shell_failed(frame, room, error, message));
    free(frame);
}

static void show(const struct decoder *decoder)
{
    const uint8_t *payload = decoder->payload;
    size_t length = decoder->length;
    switch ((enum frame_type)decoder->type) {
    case FRAME_REQUEST: show_request(payload, length); break;
    case FRAME_RUN: show_empty("RUN", FRAME_RUN); break;
    case FRAME_ESCALATE: show_empty("ESCALATE", FRAME_ESCALATE); break;
    case FRAME_DENY: show_reason("DENY", FRAME_DENY, payload, length); break;
    case FRAME_ERROR: show_reason("ERROR", FRAME_ERROR, payload, length); break;
    case FRAME_EXEC_FAILED: show_number("EXEC_FAILED", FRAME_EXEC_FAILED, payload, length); break;
    case FRAME_FDS: show_fds(payload, length); break;
    case FRAME_ATTRIBUTES: show_attributes(payload, length); break;
    case FRAME_SIGNAL: show_number("SIGNAL", FRAME_SIGNAL, payload, length); break;
    case FRAME_STOPPED: show_number("STOPPED", FRAME_STOPPED, payload, length); break;
    case FRAME_CONTINUED: show_empty("CONTINUED", FRAME_CONTINUED); break;
    case FRAME_EXIT: show_exit("EXIT", FRAME_EXIT, payload, length); break;
    case FRAME_SPAWN: show_spawn(payload, length); break;
    case FRAME_STARTED: show_started(payload, length); break;
    case FRAME_ENDED: show_ended(payload, length); break;
    case FRAME_SHELL_STARTED: show_number("SHELL_STARTED", FRAME_SHELL_STARTED, payload, length); break;
    case FRAME_SHELL_FAILED: show_shell_failed(payload, length); break;
    case FRAME_SHELL_EXIT: show_exit("SHELL_EXIT", FRAME_SHELL_EXIT, payload, length); break;
    case FRAME_END: show_empty("END", FRAME_END); break;
    case FRAME_FINISHED: show_number("FINISHED", FRAME_FINISHED, payload, length); break;
    }
}

/* Payloads of exactly their size, so that a sanitiser sees a read beyond one. */
static uint8_t *allocate(size_t size)
{
    return malloc(size);
}

static uint8_t *read_input(size_t *size)
{
    size_t room = 1 << 16;
    uint8_t *input = malloc(room);
    for (*size = 0; input != NULL;) {
        size_t got = fread(input + *size, 1, room - *size, stdin);
        *size += got;
        if (got == 0)
            return input;
        if (*size == room)
            input = realloc(input, room *= 2);
    }
    return input;
}

static void keep(const uint8_t *bytes, size_t count)
{
    if (original_size + count > original_room) {
        original_room = 2 * (original_size + count);
        original = realloc(original, original_room);
        if (original == NULL)
            fail("no memory");
    }
    memcpy(original + original_size, bytes, count);
    original_size += count;
}

static void leave_behind(struct decoder *decoder)
{
    free(decoder->payload);
    decoder->payload = NULL;
    decoder->capacity = 0;
    original_size = 0;
}

static void decode(struct decoder *decoder, const uint8_t *input, size_t size, size_t chunk)
{
    for (size_t at = 0; at < size;) {
        size_t count = chunk < size - at ? chunk : size - at, used = 0;
        uint8_t *piece = malloc(count);
        if (piece == NULL)
            fail("no memory");
        memcpy(piece, input + at, count);
        for (size_t from = 0; from < count; from += used) {
            enum decoder_result result = decoder_feed(decoder, piece + from, count - from, &used);
            keep(piece + from, used);
            if (result == DECODER_BROKEN)
                fail(decoder->problem);
            if (result == DECODER_FRAME) {
                show(decoder);
                leave_behind(decoder);
            }
        }
        free(piece);
        at += count;
    }
    if (!decoder_at_start(decoder))
        fail("the end in the middle of a frame");
}

static size_t find(const char *name, size_t length, const char *const *names, size_t from, size_t to)
{
    for (size_t i = from; i < to; i++)
        if (strlen(names[i]) == length && memcmp(names[i], name, length) == 0)
            return i;
    fprintf(stderr, "usage: decode_frames CHUNK client|service|server|supervisor|anyone[:STATE]\n");
    exit(2);
}

int main(int argc, char **argv)
{
    struct decoder decoder;
    size_t size;
    long chunk = argc == 3 ? strtol(argv[1], NULL, 10) : 0;
    const char *name = chunk > 0 ? argv[2] : "";
    size_t length = strcspn(name, ":");
    enum reader reader = (enum reader)find(name, length, readers, 0, 5);
    bool control = reader == READER_SERVER || reader == READER_SUPERVISOR;
    size_t first = control ? CONTROL_START : STATE_START, last = control ? CONTROL_DONE : STATE_DONE;
    size_t state = name[length] == ':'
                       ? find(name + length + 1, strlen(name + length + 1), states, first, last + 1)
                       : first;
    uint8_t *input = read_input(&size);
    if (input == NULL)
        fail("no memory");
    decoder_start(&decoder, reader, (enum session_state)state, NULL, 0);
    decoder.allocate = allocate;
    decode(&decoder, input, size, (size_t)chunk);
    printf("state %s\n", states[decoder.state]);
    free(input);
    free(original);
    return 0;
}
