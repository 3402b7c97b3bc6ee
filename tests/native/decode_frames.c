/* Test driver of src/native/frames.c: reads frames on stdin and says what they are (describe_frames.h).
 *
 *     decode_frames CHUNK READER[:STATE]
 *
 * CHUNK is how many bytes the decoder gets at a time. READER is client, service, server, supervisor or anyone (who takes
 * every frame at any time); STATE is a state of that session ("asked", "handing-over", ...), by default its first. An
 * error gives exit status 1.
 */
#include <stdio.h>
#include <stdlib.h>

#include "describe_frames.h"

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

int main(int argc, char **argv)
{
    struct place place;
    size_t size, length;
    long chunk = argc == 3 ? strtol(argv[1], NULL, 10) : 0;
    if (chunk <= 0 || !find_place(argv[2], &place)) {
        fprintf(stderr, "usage: decode_frames CHUNK client|service|server|supervisor|anyone[:STATE]\n");
        return 2;
    }
    uint8_t *input = read_input(&size);
    if (input == NULL)
        return 2;
    bool fine = describe(input, size, (size_t)chunk, place);
    const char *text = description(&length);
    fwrite(text, 1, length, stdout);
    free(input);
    return fflush(stdout) != 0 ? 2 : fine ? 0 : 1;
}
