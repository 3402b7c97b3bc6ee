/* What an escalated program may take over from the script's environment: escalation/environ.py in C, for what is escalated
 * without the server. The same tables; a test compares what comes of both. */
#ifndef CODEX_ENVIRONMENT_H
#define CODEX_ENVIRONMENT_H

#include <stdbool.h>
#include <stdint.h>

/* Whether an entry (NAME=value) is dropped. */
bool is_dropped(const char *entry);

/* Takes the dropped ones out of `count` strings, one behind the other; returns how many are left. */
uint32_t filter_environment(char *entries, uint32_t count);

#endif
