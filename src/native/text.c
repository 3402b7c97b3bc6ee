#include "text.h"

#include <limits.h>
#include <signal.h>
#include <string.h>
#include <unistd.h>

#include "descriptors.h"

void text_start(struct text *text)
{
    text->used = 0;
}

static void add_byte(struct text *text, char byte)
{
    if (text->used < TEXT_ROOM - 1) /* one is kept for the line feed */
        text->bytes[text->used++] = byte;
}

void text_add(struct text *text, const char *more)
{
    for (; *more != '\0'; more++)
        add_byte(text, *more);
}

void text_quoted(struct text *text, const char *more)
{
    for (; *more != '\0'; more++)
        add_byte(text, (unsigned char)*more < 0x20 || *more == 0x7F ? '?' : *more);
}

void text_number(struct text *text, int64_t number)
{
    char digits[20];
    size_t count = 0;
    uint64_t left = number < 0 ? 0 - (uint64_t)number : (uint64_t)number;
    if (number < 0)
        add_byte(text, '-');
    do
        digits[count++] = (char)('0' + left % 10);
    while ((left /= 10) > 0);
    while (count > 0)
        add_byte(text, digits[--count]);
}

void text_say(struct text *text)
{
    text->bytes[text->used++] = '\n';
    signal(SIGPIPE, SIG_IGN);
    write_all(STDERR_FILENO, text->bytes, text->used);
    text->used = 0;
}

bool parse_number(const char *from, int *number)
{
    int64_t value = 0;
    if (*from == '\0')
        return false;
    for (; *from != '\0'; from++) {
        if (*from < '0' || *from > '9')
            return false;
        value = value * 10 + (*from - '0');
        if (value > INT_MAX)
            return false;
    }
    *number = (int)value;
    return true;
}
