/* Short messages without stdio, which would triple the size of the wrapper. */
#ifndef CODEX_TEXT_H
#define CODEX_TEXT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define TEXT_ROOM 1024

/* What does not fit is cut off. */
struct text {
    size_t used;
    char bytes[TEXT_ROOM];
};

void text_start(struct text *text);
void text_add(struct text *text, const char *more);
void text_number(struct text *text, int64_t number);

/* One line is promised whatever a file is called: control characters become '?'. */
void text_quoted(struct text *text, const char *more);

/* Ends the message with a line feed and writes it to stderr. A closed stderr must not turn our status into SIGPIPE's. */
void text_say(struct text *text);

/* A decimal number from 0 to INT_MAX and nothing else. */
bool parse_number(const char *from, int *number);

#endif
