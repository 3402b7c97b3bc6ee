#include "frames.h"

#include <string.h>

/* ---- the state table: reader, state, frame, next state -------------------------------------------------------- */

struct transition {
    uint8_t reader, state, type, next;
};

/* What the client sent before it could see the end is not an offence: the rows that stay in DONE. A supervisor that is
 * told to end by a signal finishes without END. */
static const struct transition transitions[] = {
    {READER_CLIENT, STATE_ASKED, FRAME_RUN, STATE_RUNNING},
    {READER_CLIENT, STATE_ASKED, FRAME_ESCALATE, STATE_HANDING_OVER},
    {READER_CLIENT, STATE_ASKED, FRAME_DENY, STATE_DONE},
    {READER_CLIENT, STATE_ASKED, FRAME_ERROR, STATE_DONE},
    {READER_CLIENT, STATE_HANDING_OVER, FRAME_ERROR, STATE_DONE},
    {READER_CLIENT, STATE_HANDED_OVER, FRAME_ERROR, STATE_DONE},
    {READER_CLIENT, STATE_ATTACHED, FRAME_STOPPED, STATE_ATTACHED},
    {READER_CLIENT, STATE_ATTACHED, FRAME_CONTINUED, STATE_ATTACHED},
    {READER_CLIENT, STATE_ATTACHED, FRAME_EXIT, STATE_DONE},
    {READER_CLIENT, STATE_ATTACHED, FRAME_ERROR, STATE_DONE},
    {READER_SERVICE, STATE_START, FRAME_REQUEST, STATE_ASKED},
    {READER_SERVICE, STATE_RUNNING, FRAME_EXEC_FAILED, STATE_DONE},
    {READER_SERVICE, STATE_HANDING_OVER, FRAME_FDS, STATE_HANDING_OVER}, /* the last part: STATE_HANDED_OVER */
    {READER_SERVICE, STATE_HANDED_OVER, FRAME_ATTRIBUTES, STATE_ATTACHED},
    {READER_SERVICE, STATE_ATTACHED, FRAME_SIGNAL, STATE_ATTACHED},
    {READER_SERVICE, STATE_ATTACHED, FRAME_CONTINUED, STATE_ATTACHED},
    {READER_SERVICE, STATE_DONE, FRAME_FDS, STATE_DONE},
    {READER_SERVICE, STATE_DONE, FRAME_ATTRIBUTES, STATE_DONE},
    {READER_SERVICE, STATE_DONE, FRAME_SIGNAL, STATE_DONE},
    {READER_SERVICE, STATE_DONE, FRAME_CONTINUED, STATE_DONE},
    {READER_SERVER, CONTROL_WAITING, FRAME_FINISHED, CONTROL_DONE},
    {READER_SERVER, CONTROL_START, FRAME_SHELL_STARTED, CONTROL_RUNNING},
    {READER_SERVER, CONTROL_START, FRAME_SHELL_FAILED, CONTROL_FAILED},
    {READER_SERVER, CONTROL_START, FRAME_FINISHED, CONTROL_DONE},
    {READER_SERVER, CONTROL_RUNNING, FRAME_ANSWERED, CONTROL_RUNNING},
    {READER_SERVER, CONTROL_RUNNING, FRAME_TAKEN, CONTROL_RUNNING},
    {READER_SERVER, CONTROL_RUNNING, FRAME_STARTED, CONTROL_RUNNING},
    {READER_SERVER, CONTROL_RUNNING, FRAME_ENDED, CONTROL_RUNNING},
    {READER_SERVER, CONTROL_RUNNING, FRAME_SHELL_EXIT, CONTROL_SHELL_ENDED},
    {READER_SERVER, CONTROL_RUNNING, FRAME_FINISHED, CONTROL_DONE},
    {READER_SERVER, CONTROL_SHELL_ENDED, FRAME_ANSWERED, CONTROL_SHELL_ENDED},
    {READER_SERVER, CONTROL_SHELL_ENDED, FRAME_TAKEN, CONTROL_SHELL_ENDED},
    {READER_SERVER, CONTROL_SHELL_ENDED, FRAME_STARTED, CONTROL_SHELL_ENDED},
    {READER_SERVER, CONTROL_SHELL_ENDED, FRAME_ENDED, CONTROL_SHELL_ENDED},
    {READER_SERVER, CONTROL_SHELL_ENDED, FRAME_FINISHED, CONTROL_DONE},
    {READER_SERVER, CONTROL_SHELL_ENDED, FRAME_IDLE, CONTROL_WAITING},
    {READER_SERVER, CONTROL_KEEPING, FRAME_IDLE, CONTROL_WAITING},
    {READER_SERVER, CONTROL_ENDING, FRAME_IDLE, CONTROL_ENDING},
    {READER_SERVER, CONTROL_KEEPING, FRAME_ANSWERED, CONTROL_KEEPING},
    {READER_SERVER, CONTROL_KEEPING, FRAME_TAKEN, CONTROL_KEEPING},
    {READER_SERVER, CONTROL_KEEPING, FRAME_STARTED, CONTROL_KEEPING},
    {READER_SERVER, CONTROL_KEEPING, FRAME_ENDED, CONTROL_KEEPING},
    {READER_SERVER, CONTROL_KEEPING, FRAME_KEPT, CONTROL_KEPT},
    {READER_SERVER, CONTROL_KEEPING, FRAME_FINISHED, CONTROL_DONE},
    {READER_SERVER, CONTROL_KEPT, FRAME_ANSWERED, CONTROL_KEPT},
    {READER_SERVER, CONTROL_KEPT, FRAME_TAKEN, CONTROL_KEPT},
    {READER_SERVER, CONTROL_KEPT, FRAME_STARTED, CONTROL_KEPT},
    {READER_SERVER, CONTROL_KEPT, FRAME_ENDED, CONTROL_KEPT},
    {READER_SERVER, CONTROL_KEPT, FRAME_FINISHED, CONTROL_DONE},
    {READER_SERVER, CONTROL_FAILED, FRAME_FINISHED, CONTROL_DONE},
    {READER_SERVER, CONTROL_ENDING, FRAME_SHELL_STARTED, CONTROL_ENDING},
    {READER_SERVER, CONTROL_ENDING, FRAME_SHELL_FAILED, CONTROL_ENDING},
    {READER_SERVER, CONTROL_ENDING, FRAME_ANSWERED, CONTROL_ENDING},
    {READER_SERVER, CONTROL_ENDING, FRAME_TAKEN, CONTROL_ENDING},
    {READER_SERVER, CONTROL_ENDING, FRAME_STARTED, CONTROL_ENDING},
    {READER_SERVER, CONTROL_ENDING, FRAME_ENDED, CONTROL_ENDING},
    {READER_SERVER, CONTROL_ENDING, FRAME_SHELL_EXIT, CONTROL_ENDING},
    {READER_SERVER, CONTROL_ENDING, FRAME_KEPT, CONTROL_ENDING},
    {READER_SERVER, CONTROL_ENDING, FRAME_FINISHED, CONTROL_DONE},
    {READER_SUPERVISOR, CONTROL_WAITING, FRAME_START, CONTROL_START},
    {READER_SUPERVISOR, CONTROL_WAITING, FRAME_STANDING, CONTROL_WAITING},
    {READER_SUPERVISOR, CONTROL_WAITING, FRAME_HOLD, CONTROL_WAITING},
    {READER_SUPERVISOR, CONTROL_WAITING, FRAME_END, CONTROL_ENDING},
    {READER_SUPERVISOR, CONTROL_START, FRAME_END, CONTROL_ENDING},
    {READER_SUPERVISOR, CONTROL_RUNNING, FRAME_SPAWN, CONTROL_RUNNING},
    {READER_SUPERVISOR, CONTROL_RUNNING, FRAME_STANDING, CONTROL_RUNNING},
    {READER_SUPERVISOR, CONTROL_RUNNING, FRAME_HOLD, CONTROL_RUNNING},
    {READER_SUPERVISOR, CONTROL_RUNNING, FRAME_END, CONTROL_ENDING},
    {READER_SUPERVISOR, CONTROL_SHELL_ENDED, FRAME_SPAWN, CONTROL_SHELL_ENDED},
    {READER_SUPERVISOR, CONTROL_SHELL_ENDED, FRAME_STANDING, CONTROL_SHELL_ENDED},
    {READER_SUPERVISOR, CONTROL_SHELL_ENDED, FRAME_HOLD, CONTROL_SHELL_ENDED},
    {READER_SUPERVISOR, CONTROL_SHELL_ENDED, FRAME_KEEP, CONTROL_KEEPING},
    {READER_SUPERVISOR, CONTROL_SHELL_ENDED, FRAME_END, CONTROL_ENDING},
    {READER_SUPERVISOR, CONTROL_KEEPING, FRAME_SPAWN, CONTROL_KEEPING},
    {READER_SUPERVISOR, CONTROL_KEEPING, FRAME_STANDING, CONTROL_KEEPING},
    {READER_SUPERVISOR, CONTROL_KEEPING, FRAME_HOLD, CONTROL_KEEPING},
    {READER_SUPERVISOR, CONTROL_KEEPING, FRAME_END, CONTROL_ENDING},
    {READER_SUPERVISOR, CONTROL_KEPT, FRAME_SPAWN, CONTROL_KEPT},
    {READER_SUPERVISOR, CONTROL_KEPT, FRAME_STANDING, CONTROL_KEPT},
    {READER_SUPERVISOR, CONTROL_KEPT, FRAME_HOLD, CONTROL_KEPT},
    {READER_SUPERVISOR, CONTROL_KEPT, FRAME_END, CONTROL_ENDING},
    {READER_SUPERVISOR, CONTROL_FAILED, FRAME_END, CONTROL_ENDING},
};

/* Payload sizes, so that a frame that cannot be right is refused before its bytes are waited for. */
struct size_range {
    uint8_t type;
    uint32_t least, most;
};

static const struct size_range sizes[] = {
    {FRAME_REQUEST, 15, REQUEST_PAYLOAD_MAX},
    {FRAME_RUN, 0, 0},
    {FRAME_ESCALATE, 0, 0},
    {FRAME_DENY, 0, REASON_MAX},
    {FRAME_ERROR, 0, REASON_MAX},
    {FRAME_EXEC_FAILED, 4, 4},
    {FRAME_FDS, 8, 8 + 4 * PART_MAX},
    {FRAME_ATTRIBUTES, 28, 28 + 20 * LIMITS_MAX},
    {FRAME_SIGNAL, 4, 4},
    {FRAME_STOPPED, 4, 4},
    {FRAME_CONTINUED, 0, 0},
    {FRAME_EXIT, 5, 5},
    {FRAME_SPAWN, 43, LENGTH_MAX - 1},
    {FRAME_STARTED, 8, 8},
    {FRAME_ENDED, 9, 9},
    {FRAME_SHELL_STARTED, 4, 4},
    {FRAME_SHELL_FAILED, 4, 4 + REASON_MAX},
    {FRAME_SHELL_EXIT, 5, 5},
    {FRAME_END, 0, 0},
    {FRAME_FINISHED, 4, 4},
    {FRAME_KEEP, 0, 0},
    {FRAME_KEPT, 4, 4},
    {FRAME_STANDING, 69, STANDING_MAX},
    {FRAME_HOLD, 12, 12},
    {FRAME_ANSWERED, 8, 8},
    {FRAME_TAKEN, 9, TAKEN_MAX},
    {FRAME_START, 10, LENGTH_MAX - 1},
    {FRAME_IDLE, 0, 0},
};

static const struct transition *find_transition(const struct decoder *decoder, uint8_t type)
{
    for (size_t i = 0; i < sizeof transitions / sizeof *transitions; i++)
        if (transitions[i].reader == decoder->reader && transitions[i].state == decoder->state &&
            transitions[i].type == type)
            return &transitions[i];
    return NULL;
}

static const struct size_range *find_size(uint8_t type)
{
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++)
        if (sizes[i].type == type)
            return &sizes[i];
    return NULL;
}

/* ---- reading integers ----------------------------------------------------------------------------------------- */

struct input {
    const uint8_t *at;
    size_t left;
    bool broken;
};

static uint64_t take(struct input *input, size_t size)
{
    uint64_t value = 0;
    if (input->broken || input->left < size) {
        input->broken = true;
        return 0;
    }
    for (size_t i = 0; i < size; i++)
        value |= (uint64_t)input->at[i] << (8 * i);
    input->at += size;
    input->left -= size;
    return value;
}

static uint32_t take_u32(struct input *input)
{
    return (uint32_t)take(input, 4);
}

static bool consumed(const struct input *input)
{
    return !input->broken && input->left == 0;
}

/* ---- the decoder ---------------------------------------------------------------------------------------------- */

void decoder_start(struct decoder *decoder, enum reader reader, enum session_state state, uint8_t *payload,
                   size_t capacity)
{
    /* Not memset: the structure is meant to lie in untouched memory until it is used. */
    decoder->reader = reader;
    decoder->state = state;
    decoder->head_have = 0;
    decoder->payload = payload;
    decoder->capacity = capacity;
    decoder->length = decoder->have = 0;
    decoder->allocate = NULL;
    decoder->whole = decoder->parts_begun = false;
    decoder->parts_total = decoder->parts_have = 0;
    decoder->problem = NULL;
}

bool decoder_at_start(const struct decoder *decoder)
{
    return decoder->whole || decoder->head_have == 0;
}

uint8_t *decoder_space(struct decoder *decoder, size_t *room)
{
    if (decoder->whole) {
        decoder->whole = false;
        decoder->head_have = 0;
        decoder->length = decoder->have = 0;
    }
    if (decoder->head_have < FRAME_HEAD) {
        /* One byte alone first: descriptors that come with it are the frame's, any that come later are misplaced. */
        *room = decoder->head_have == 0 ? 1 : FRAME_HEAD - decoder->head_have;
        return decoder->head + decoder->head_have;
    }
    *room = decoder->length - decoder->have;
    return decoder->payload + decoder->have;
}

static enum decoder_result broken(struct decoder *decoder, const char *problem)
{
    decoder->problem = problem;
    return DECODER_BROKEN;
}

/* FDS parts must tell the same total and add up to it. */
static enum decoder_result count_part(struct decoder *decoder)
{
    struct input input = {decoder->payload, decoder->length, false};
    uint32_t total = take_u32(&input), count = take_u32(&input);
    if (input.broken || total > DESCRIPTORS_MAX || count > PART_MAX || (count == 0 && total != 0))
        return broken(decoder, "a part of descriptors of a wrong size");
    if (decoder->parts_begun && total != decoder->parts_total)
        return broken(decoder, "a total that changed");
    if (count > total - decoder->parts_have)
        return broken(decoder, "more descriptors than announced");
    decoder->parts_begun = true;
    decoder->parts_total = total;
    decoder->parts_have += count;
    if (decoder->parts_have == total)
        decoder->state = STATE_HANDED_OVER;
    return DECODER_FRAME;
}

static enum decoder_result whole_frame(struct decoder *decoder)
{
    decoder->whole = true;
    if (decoder->reader == READER_ANYONE)
        return DECODER_FRAME;
    const struct transition *transition = find_transition(decoder, decoder->type);
    if (transition == NULL)
        return broken(decoder, "a frame out of turn");
    if (decoder->type == FRAME_FDS && decoder->state == STATE_HANDING_OVER)
        return count_part(decoder);
    decoder->state = (enum session_state)transition->next;
    return DECODER_FRAME;
}

/* Four or all five bytes of the head: a length that cannot be is refused before a type is waited for. */
static enum decoder_result read_head(struct decoder *decoder)
{
    struct input input = {decoder->head, FRAME_HEAD, false};
    uint32_t length = take_u32(&input);
    if (length < 1 || length > LENGTH_MAX)
        return broken(decoder, "a frame of a length that cannot be");
    if (decoder->head_have < FRAME_HEAD)
        return DECODER_MORE;
    decoder->type = (uint8_t)take(&input, 1);
    decoder->length = length - 1;
    const struct size_range *size = find_size(decoder->type);
    if (size == NULL)
        return broken(decoder, "a frame of unknown type");
    if (decoder->reader != READER_ANYONE && find_transition(decoder, decoder->type) == NULL)
        return broken(decoder, "a frame out of turn");
    if (decoder->length < size->least || decoder->length > size->most)
        return broken(decoder, "a payload of the wrong size");
    if (decoder->length > decoder->capacity) {
        decoder->payload = decoder->allocate == NULL ? NULL : decoder->allocate(decoder->length);
        decoder->capacity = decoder->payload == NULL ? 0 : decoder->length;
        if (decoder->payload == NULL)
            return broken(decoder, "no memory for a frame");
    }
    return decoder->length == 0 ? whole_frame(decoder) : DECODER_MORE;
}

enum decoder_result decoder_took(struct decoder *decoder, size_t count)
{
    if (decoder->problem != NULL)
        return DECODER_BROKEN;
    if (decoder->head_have < FRAME_HEAD) {
        decoder->head_have += count;
        return decoder->head_have >= FRAME_HEAD - 1 ? read_head(decoder) : DECODER_MORE;
    }
    decoder->have += count;
    return decoder->have == decoder->length ? whole_frame(decoder) : DECODER_MORE;
}

enum decoder_result decoder_feed(struct decoder *decoder, const uint8_t *bytes, size_t count, size_t *used)
{
    enum decoder_result result = decoder->problem == NULL ? DECODER_MORE : DECODER_BROKEN;
    *used = 0;
    while (result == DECODER_MORE && *used < count) {
        size_t room;
        uint8_t *space = decoder_space(decoder, &room);
        if (room > count - *used)
            room = count - *used;
        memcpy(space, bytes + *used, room);
        *used += room;
        result = decoder_took(decoder, room);
    }
    return result;
}

/* ---- payloads ------------------------------------------------------------------------------------------------- */

const char *next_string(const char *string)
{
    return string + strlen(string) + 1;
}

/* Whether exactly `count` NUL-terminated strings lie there, and nothing else. */
static bool holds_strings(const uint8_t *bytes, size_t length, uint32_t count)
{
    size_t found = 0;
    if (length == 0 || bytes[length - 1] != 0)
        return false;
    for (const uint8_t *at = bytes, *end = bytes + length; at < end; found++) {
        const uint8_t *nul = memchr(at, 0, (size_t)(end - at));
        if (nul == NULL)
            return false;
        at = nul + 1;
    }
    return found == count;
}

static bool take_request(struct input *input, struct request *request)
{
    request->flags = (uint8_t)take(input, 1);
    request->umask = take_u32(input);
    request->argc = take_u32(input);
    request->envc = take_u32(input);
    if (input->broken || request->flags > 7 || request->umask > 0777 || request->argc > STRINGS_MAX ||
        request->envc > STRINGS_MAX || !holds_strings(input->at, input->left, 2 + request->argc + request->envc))
        return false;
    request->strings = (struct text_span){(const char *)input->at, input->left};
    request->file = request->strings.bytes;
    request->cwd = next_string(request->file);
    request->argv = next_string(request->cwd);
    request->env = request->argv;
    for (uint32_t i = 0; i < request->argc; i++)
        request->env = next_string(request->env);
    return true;
}

bool decode_request(const uint8_t *payload, size_t length, struct request *request)
{
    struct input input = {payload, length, false};
    return length <= REQUEST_PAYLOAD_MAX && take_request(&input, request) && request->file[0] != '\0' &&
           strlen(request->file) <= PATH_BYTES_MAX && strlen(request->cwd) <= PATH_BYTES_MAX &&
           (request->cwd[0] == '/' || request->cwd[0] == '\0');
}

bool decode_spawn(const uint8_t *payload, size_t length, struct spawn *spawn)
{
    struct input input = {payload, length, false};
    spawn->session = take_u32(&input);
    spawn->size = take(&input, 8);
    spawn->modified = take(&input, 8);
    spawn->changed = take(&input, 8);
    return take_request(&input, &spawn->what);
}

bool decode_start(const uint8_t *payload, size_t length, struct start *start)
{
    struct input input = {payload, length, false};
    start->argc = take_u32(&input);
    start->envc = take_u32(&input);
    if (input.broken || start->argc > STRINGS_MAX || start->envc > STRINGS_MAX ||
        !holds_strings(input.at, input.left, 1 + start->argc + start->envc))
        return false;
    start->cwd = (const char *)input.at;
    start->argv = start->env = next_string(start->cwd);
    for (uint32_t i = 0; i < start->argc; i++)
        start->env = next_string(start->env);
    return start->cwd[0] == '/' && strlen(start->cwd) <= PATH_BYTES_MAX;
}

uint32_t request_descriptors(const struct request *request)
{
    return (request->flags & REQUEST_PROGRAM ? 1u : 0u) + (request->flags & REQUEST_CWD ? 1u : 0u);
}

uint32_t spawn_descriptors(const struct spawn *spawn)
{
    return 1u + request_descriptors(&spawn->what);
}

bool decode_fds(const uint8_t *payload, size_t length, struct fds *fds)
{
    struct input input = {payload, length, false};
    fds->total = take_u32(&input);
    fds->count = take_u32(&input);
    if (input.broken || fds->total > DESCRIPTORS_MAX || fds->count > PART_MAX || fds->count > fds->total ||
        (fds->count == 0 && fds->total != 0))
        return false;
    for (uint32_t i = 0; i < fds->count; i++) {
        fds->numbers[i] = take_u32(&input);
        for (uint32_t j = 0; j < i; j++)
            if (fds->numbers[j] == fds->numbers[i])
                return false;
    }
    return consumed(&input);
}

bool decode_attributes(const uint8_t *payload, size_t length, struct attributes *attributes)
{
    struct input input = {payload, length, false};
    attributes->flags = take_u32(&input);
    attributes->nice = (int32_t)take_u32(&input);
    attributes->blocked = take(&input, 8);
    attributes->ignored = take(&input, 8);
    attributes->count = take_u32(&input);
    if (input.broken || attributes->flags > ATTRIBUTE_TERMINAL || attributes->nice < -20 || attributes->nice > 19 ||
        attributes->count > LIMITS_MAX)
        return false;
    for (uint32_t i = 0; i < attributes->count; i++) {
        attributes->limits[i].resource = take_u32(&input);
        attributes->limits[i].soft = take(&input, 8);
        attributes->limits[i].hard = take(&input, 8);
    }
    return consumed(&input);
}

/* Length of the UTF-8 sequence that starts here, or 0: RFC 3629, no overlong forms, no surrogates. */
static size_t utf8_length(const uint8_t *at, size_t left)
{
    uint8_t first = at[0], low = 0x80, high = 0xBF;
    size_t length = first < 0x80 ? 1 : first >= 0xC2 && first <= 0xDF ? 2 : (first & 0xF0) == 0xE0 ? 3
                    : first >= 0xF0 && first <= 0xF4 ? 4 : 0;
    if (length == 0 || length > left)
        return 0;
    if (first == 0xE0)
        low = 0xA0;
    else if (first == 0xED)
        high = 0x9F;
    else if (first == 0xF0)
        low = 0x90;
    else if (first == 0xF4)
        high = 0x8F;
    for (size_t i = 1; i < length; i++, low = 0x80, high = 0xBF)
        if (at[i] < low || at[i] > high)
            return 0;
    return length;
}

bool decode_reason(const uint8_t *payload, size_t length, struct text_span *reason)
{
    if (length > REASON_MAX)
        return false;
    for (size_t at = 0, step; at < length; at += step)
        if ((step = utf8_length(payload + at, length - at)) == 0)
            return false;
    *reason = (struct text_span){(const char *)payload, length};
    return true;
}

bool decode_number(const uint8_t *payload, size_t length, uint32_t *number)
{
    struct input input = {payload, length, false};
    *number = take_u32(&input);
    return consumed(&input);
}

bool decode_signal(const uint8_t *payload, size_t length, uint32_t *signal)
{
    return decode_number(payload, length, signal) && *signal >= 1 && *signal <= SIGNAL_MAX;
}

static bool take_outcome(struct input *input, struct outcome *outcome)
{
    uint8_t kind = (uint8_t)take(input, 1);
    outcome->kind = (enum outcome_kind)kind;
    outcome->value = take_u32(input);
    return consumed(input) && kind <= OUTCOME_NOT_STARTED && (kind != OUTCOME_EXITED || outcome->value <= 0xFF) &&
           (kind != OUTCOME_SIGNALLED || (outcome->value >= 1 && outcome->value <= SIGNAL_MAX));
}

bool decode_exit(const uint8_t *payload, size_t length, struct outcome *outcome)
{
    struct input input = {payload, length, false};
    return take_outcome(&input, outcome);
}

bool decode_shell_exit(const uint8_t *payload, size_t length, struct outcome *outcome)
{
    return decode_exit(payload, length, outcome) && outcome->kind != OUTCOME_NOT_STARTED;
}

bool decode_started(const uint8_t *payload, size_t length, uint32_t *session, uint32_t *pid)
{
    struct input input = {payload, length, false};
    *session = take_u32(&input);
    *pid = take_u32(&input);
    return consumed(&input);
}

bool decode_ended(const uint8_t *payload, size_t length, uint32_t *session, struct outcome *outcome)
{
    struct input input = {payload, length, false};
    *session = take_u32(&input);
    return take_outcome(&input, outcome);
}

bool decode_shell_failed(const uint8_t *payload, size_t length, uint32_t *error, struct text_span *message)
{
    struct input input = {payload, length, false};
    *error = take_u32(&input);
    return !input.broken && decode_reason(input.at, input.left, message);
}

static bool is_absolute_path(const char *path)
{
    return path[0] == '/' && strlen(path) <= PATH_BYTES_MAX;
}

bool decode_standing(const uint8_t *payload, size_t length, struct standing *standing)
{
    struct input input = {payload, length, false};
    standing->generation = take_u32(&input);
    standing->number = take_u32(&input);
    standing->until = take(&input, 8);
    standing->answer = (uint8_t)take(&input, 1);
    standing->program.device = take(&input, 8);
    standing->program.inode = take(&input, 8);
    standing->program.size = take(&input, 8);
    standing->program.modified = take(&input, 8);
    standing->program.changed = take(&input, 8);
    standing->depth = take_u32(&input);
    standing->count = take_u32(&input);
    if (input.broken || length > STANDING_MAX ||
        (standing->answer != FRAME_RUN && standing->answer != FRAME_ESCALATE) || standing->count >= standing->depth ||
        standing->count > STANDING_WORDS_MAX || !holds_strings(input.at, input.left, 2 + standing->count))
        return false;
    standing->strings = (struct text_span){(const char *)input.at, input.left};
    standing->file = standing->strings.bytes;
    standing->resolved = next_string(standing->file);
    standing->words = next_string(standing->resolved);
    return is_absolute_path(standing->file) && is_absolute_path(standing->resolved);
}

bool decode_hold(const uint8_t *payload, size_t length, uint32_t *generation, uint64_t *until)
{
    struct input input = {payload, length, false};
    *generation = take_u32(&input);
    *until = take(&input, 8);
    return consumed(&input);
}

bool decode_taken(const uint8_t *payload, size_t length, struct taken *taken)
{
    struct input input = {payload, length, false};
    taken->number = take_u32(&input);
    taken->argc = take_u32(&input);
    taken->argv = (const char *)input.at;
    if (input.broken || taken->argc > TAKEN_WORDS_MAX || !holds_strings(input.at, input.left, taken->argc))
        return false;
    const char *word = taken->argv;
    for (uint32_t i = 0; i < taken->argc; i++, word = next_string(word))
        if (strlen(word) > TAKEN_BYTES_MAX)
            return false;
    return true;
}

bool decode_answered(const uint8_t *payload, size_t length, uint64_t *total)
{
    struct input input = {payload, length, false};
    *total = take(&input, 8);
    return consumed(&input);
}

/* ---- writing -------------------------------------------------------------------------------------------------- */

struct output {
    uint8_t *to;
    size_t room, used;
    bool full;
};

static void put(struct output *output, uint64_t value, size_t size)
{
    if (output->full || output->room - output->used < size) {
        output->full = true;
        return;
    }
    for (size_t i = 0; i < size; i++)
        output->to[output->used++] = (uint8_t)(value >> (8 * i));
}

/* Begins a frame whose payload is `length` bytes, of which all, or for REQUEST and SPAWN only the head, are put here. */
static struct output begin(uint8_t *to, size_t room, enum frame_type type, size_t length)
{
    struct output output = {to, room, 0, length > LENGTH_MAX - 1};
    put(&output, length + 1, 4);
    put(&output, (uint64_t)type, 1);
    return output;
}

static size_t finish(const struct output *output)
{
    return output->full ? 0 : output->used;
}

size_t encode_empty(uint8_t *to, size_t room, enum frame_type type)
{
    struct output output = begin(to, room, type, 0);
    return finish(&output);
}

size_t encode_number(uint8_t *to, size_t room, enum frame_type type, uint32_t number)
{
    struct output output = begin(to, room, type, 4);
    put(&output, number, 4);
    return finish(&output);
}

static void put_text(struct output *output, struct text_span text)
{
    if (output->full || text.length > REASON_MAX || output->room - output->used < text.length) {
        output->full = true;
        return;
    }
    if (text.length != 0)
        memcpy(output->to + output->used, text.bytes, text.length);
    output->used += text.length;
}

size_t encode_reason(uint8_t *to, size_t room, enum frame_type type, struct text_span reason)
{
    struct output output = begin(to, room, type, reason.length);
    put_text(&output, reason);
    return finish(&output);
}

static void put_outcome(struct output *output, struct outcome outcome)
{
    put(output, (uint64_t)outcome.kind, 1);
    put(output, outcome.value, 4);
}

size_t encode_exit(uint8_t *to, size_t room, enum frame_type type, struct outcome outcome)
{
    struct output output = begin(to, room, type, 5);
    put_outcome(&output, outcome);
    return finish(&output);
}

size_t encode_fds(uint8_t *to, size_t room, uint32_t total, const uint32_t *numbers, uint32_t count)
{
    struct output output = begin(to, room, FRAME_FDS, 8 + 4 * (size_t)count);
    put(&output, total, 4);
    put(&output, count, 4);
    for (uint32_t i = 0; i < count; i++)
        put(&output, numbers[i], 4);
    return count > PART_MAX ? 0 : finish(&output);
}

size_t encode_attributes(uint8_t *to, size_t room, const struct attributes *attributes)
{
    struct output output = begin(to, room, FRAME_ATTRIBUTES, 28 + 20 * (size_t)attributes->count);
    put(&output, attributes->flags, 4);
    put(&output, (uint32_t)attributes->nice, 4);
    put(&output, attributes->blocked, 8);
    put(&output, attributes->ignored, 8);
    put(&output, attributes->count, 4);
    for (uint32_t i = 0; i < attributes->count && i < LIMITS_MAX; i++) {
        put(&output, attributes->limits[i].resource, 4);
        put(&output, attributes->limits[i].soft, 8);
        put(&output, attributes->limits[i].hard, 8);
    }
    return attributes->count > LIMITS_MAX ? 0 : finish(&output);
}

size_t encode_started(uint8_t *to, size_t room, uint32_t session, uint32_t pid)
{
    struct output output = begin(to, room, FRAME_STARTED, 8);
    put(&output, session, 4);
    put(&output, pid, 4);
    return finish(&output);
}

size_t encode_ended(uint8_t *to, size_t room, uint32_t session, struct outcome outcome)
{
    struct output output = begin(to, room, FRAME_ENDED, 9);
    put(&output, session, 4);
    put_outcome(&output, outcome);
    return finish(&output);
}

size_t encode_shell_failed(uint8_t *to, size_t room, uint32_t error, struct text_span message)
{
    struct output output = begin(to, room, FRAME_SHELL_FAILED, 4 + message.length);
    put(&output, error, 4);
    put_text(&output, message);
    return finish(&output);
}

size_t encode_hold(uint8_t *to, size_t room, uint32_t generation, uint64_t until)
{
    struct output output = begin(to, room, FRAME_HOLD, 12);
    put(&output, generation, 4);
    put(&output, until, 8);
    return finish(&output);
}

size_t encode_taken(uint8_t *to, size_t room, uint32_t number, uint32_t argc, const char *argv)
{
    size_t lengths[TAKEN_WORDS_MAX], payload = 8;
    const char *word = argv;
    uint32_t told = argc < TAKEN_WORDS_MAX ? argc : TAKEN_WORDS_MAX;
    for (uint32_t i = 0; i < told; i++, word = next_string(word)) {
        lengths[i] = strlen(word) < TAKEN_BYTES_MAX ? strlen(word) : TAKEN_BYTES_MAX;
        payload += lengths[i] + 1;
    }
    struct output output = begin(to, room, FRAME_TAKEN, payload);
    put(&output, number, 4);
    put(&output, told, 4);
    word = argv;
    for (uint32_t i = 0; i < told; i++, word = next_string(word)) {
        put_text(&output, (struct text_span){word, lengths[i]});
        put(&output, 0, 1);
    }
    return finish(&output);
}

size_t encode_answered(uint8_t *to, size_t room, uint64_t total)
{
    struct output output = begin(to, room, FRAME_ANSWERED, 8);
    put(&output, total, 8);
    return finish(&output);
}

static size_t put_counts(struct output *output, const struct request *request)
{
    put(output, request->flags, 1);
    put(output, request->umask, 4);
    put(output, request->argc, 4);
    put(output, request->envc, 4);
    return request->argc > STRINGS_MAX || request->envc > STRINGS_MAX ? 0 : finish(output);
}

size_t encode_request_head(uint8_t to[REQUEST_HEAD], const struct request *request, size_t strings)
{
    struct output output = begin(to, REQUEST_HEAD, FRAME_REQUEST, 13 + strings);
    return strings > REQUEST_PAYLOAD_MAX - 13 ? 0 : put_counts(&output, request);
}

size_t encode_spawn_head(uint8_t to[SPAWN_HEAD], const struct spawn *spawn, size_t strings)
{
    struct output output = begin(to, SPAWN_HEAD, FRAME_SPAWN, 41 + strings);
    put(&output, spawn->session, 4);
    put(&output, spawn->size, 8);
    put(&output, spawn->modified, 8);
    put(&output, spawn->changed, 8);
    return put_counts(&output, &spawn->what);
}

size_t encode_standing_head(uint8_t to[STANDING_HEAD], const struct standing *standing, size_t strings)
{
    struct output output = begin(to, STANDING_HEAD, FRAME_STANDING, 65 + strings);
    const struct file_state *program = &standing->program;
    put(&output, standing->generation, 4);
    put(&output, standing->number, 4);
    put(&output, standing->until, 8);
    put(&output, standing->answer, 1);
    put(&output, program->device, 8);
    put(&output, program->inode, 8);
    put(&output, program->size, 8);
    put(&output, program->modified, 8);
    put(&output, program->changed, 8);
    put(&output, standing->depth, 4);
    put(&output, standing->count, 4);
    return strings > STANDING_MAX - 65 ? 0 : finish(&output);
}
