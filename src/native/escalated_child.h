/* The child that becomes an escalated program: it looks as if the client had exec'd it. */
#ifndef CODEX_ESCALATED_CHILD_H
#define CODEX_ESCALATED_CHILD_H

#include <stddef.h>
#include <stdint.h>
#include <sys/resource.h>
#include <sys/types.h>

#include "frames.h"

struct escalation {
    const struct spawn *spawn;
    int program, cwd;        /* -1: not attached */
    const int *descriptors;  /* ours; numbers[i] is what descriptors[i] is called in the child */
    const uint32_t *numbers;
    size_t count;
    const struct attributes *attributes;
    struct rlimit limit;     /* descriptors: what holds where the attributes do not say */
    pid_t client;            /* whose standing it takes over; 0: nobody's */
    pid_t group;             /* process group to join; 0: one of its own */
};

enum start_stage { STAGE_EXEC, STAGE_PARENT, STAGE_GROUP, STAGE_DIRECTORY, STAGE_PRIORITY, STAGE_DESCRIPTORS,
                   STAGE_LIMITS, STAGE_CHANGED };

/* What comes through the report pipe when the program could not be started; nothing but its end when it was. */
struct start_report {
    int stage;
    int error;
};

const char *stage_text(int stage);

/* `count` strings, one behind the other, as execve(2) takes them: to be freed; NULL if there is no memory. */
char **string_vector(const char *string, uint32_t count);

/* What a child works with that has not exec'd yet. */
struct becoming;

/* Returns the child's pid, and in *report the end of a pipe that tells about the exec; -1 with errno set. The child may live
 * in our memory until then: *becoming, and all that the escalation points to, must stay until the pipe has told or the child
 * was reaped. */
pid_t start_escalated(const struct escalation *escalation, struct becoming **becoming, int *report);
void free_becoming(struct becoming *becoming);

#endif
