/* The supervisor's sandboxed half: a child that confines itself and becomes the shell. */
#ifndef CODEX_SANDBOXED_SHELL_H
#define CODEX_SANDBOXED_SHELL_H

#include <stdbool.h>
#include <sys/resource.h>
#include <sys/types.h>

#include "sandbox.h"

struct shell_start {
    const char *path;
    char **argv, **environment;
    const char *cwd;      /* NULL: where we are */
    int output;           /* becomes stdout and stderr; -1: ours are the shell's */
    int rendezvous;       /* the client end of the datagram pair */
    struct rlimit limit;  /* descriptors: what the shell is to have */
    bool terminal;        /* stdin is our controlling terminal: the shell gets its foreground */
    struct sandbox_options sandbox;
};

/* What comes through the report pipe when the shell could not be started; nothing but its end when it was. */
struct shell_report {
    int error;
    size_t length;
    char message[TEXT_ROOM];
};

/* Returns the shell's pid, and in *report the end of a pipe that tells about the exec; -1 with errno set. */
pid_t start_shell(const struct shell_start *start, int *report);

#endif
