/* The sandbox that the supervisor's sandboxed half puts on itself before it becomes the shell. */
#ifndef CODEX_SANDBOX_H
#define CODEX_SANDBOX_H

#include <stdbool.h>
#include <stddef.h>

#include "text.h"

struct sandbox_options {
    bool restrict_writes;  /* writes only below `writable` and to the usual device files */
    bool no_network;
    char **writable;
    size_t count;
};

struct sandbox_refusal {
    int error; /* errno, 0 if none tells */
    struct text text;
};

struct sandbox_abilities {
    int landlock_abi; /* 0: none */
    bool seccomp;
    const char *platform;
};

/* All of it or false: the caller must not go on then. Not to be undone. */
bool sandbox_apply(const struct sandbox_options *options, struct sandbox_refusal *refusal);

void sandbox_probe(struct sandbox_abilities *abilities);

#endif
