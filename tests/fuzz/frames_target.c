/* Fuzz target of src/native/frames.c, for libFuzzer. What must hold for any bytes:
 *   - no finding of the sanitisers, no hang, no memory that grows (they and libFuzzer see to that);
 *   - the same frames come out however the bytes are cut into pieces;
 *   - what is taken for a frame is encoded to the very same bytes.
 * The input is laid out as inputs.py says.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "describe_frames.h"

#define EXEC_STATES (STATE_DONE - STATE_START + 1)
#define CONTROL_STATES (CONTROL_DONE - CONTROL_START + 1)
#define PLACES (2 * EXEC_STATES + 2 * CONTROL_STATES + 1)
#define FRAMED 0x80u

static const uint8_t separator[] = {0xF7, 'N', 'X', 'T'};

static struct place place_of(uint8_t number)
{
    int index = number % PLACES;
    if (index < 2 * EXEC_STATES)
        return (struct place){index < EXEC_STATES ? READER_CLIENT : READER_SERVICE,
                              (enum session_state)(STATE_START + index % EXEC_STATES)};
    index -= 2 * EXEC_STATES;
    if (index < 2 * CONTROL_STATES)
        return (struct place){index < CONTROL_STATES ? READER_SERVER : READER_SUPERVISOR,
                              (enum session_state)(CONTROL_START + index % CONTROL_STATES)};
    return (struct place){READER_ANYONE, STATE_START};
}

/* Puts the right length before each piece; `to` has room for 4 bytes more a piece, of which there are at most size/4 + 1. */
static size_t frame_pieces(const uint8_t *from, size_t size, uint8_t *to)
{
    size_t used = 0;
    for (const uint8_t *end = from + size, *next; from <= end; from = next + sizeof separator) {
        next = size < sizeof separator ? NULL : memmem(from, (size_t)(end - from), separator, sizeof separator);
        if (next == NULL)
            next = end;
        size_t length = (size_t)(next - from);
        for (int i = 0; i < 4; i++)
            to[used++] = (uint8_t)(length >> (8 * i));
        memcpy(to + used, from, length);
        used += length;
    }
    return used;
}

static _Noreturn void found(const char *what, const char *text, size_t size)
{
    fprintf(stderr, "%s\n%.*s\n", what, (int)size, text);
    abort();
}

static void check(const uint8_t *bytes, size_t size, size_t chunk, struct place place)
{
    size_t length, again;
    describe(bytes, size, size, place);
    const char *text = description(&length);
    char *whole = malloc(length + 1);
    if (whole == NULL)
        abort();
    memcpy(whole, text, length);
    whole[length] = '\0';
    if (strstr(whole, "error: " ENCODED_DIFFERENTLY) != NULL)
        found("a frame is encoded to other bytes than it came as", whole, length);
    describe(bytes, size, chunk, place);
    text = description(&again);
    if (again != length || memcmp(text, whole, length) != 0)
        found("cut into pieces, the same bytes say something else", text, again);
    free(whole);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size < 4)
        return 0;
    size_t rest = size - 3, chunk = data[1] & ~FRAMED;
    uint8_t *framed = malloc(2 * rest + 8);
    if (framed == NULL)
        abort();
    size_t count = rest;
    if ((data[1] & FRAMED) != 0)
        count = frame_pieces(data + 3, rest, framed);
    else
        memcpy(framed, data + 3, rest);
    check(framed, count, chunk == 0 ? 1 : chunk, place_of(data[0]));
    free(framed);
    return 0;
}
