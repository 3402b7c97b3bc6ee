/* What the parts of codex-shell-supervisor share. */
#ifndef CODEX_SUPERVISOR_H
#define CODEX_SUPERVISOR_H

#include <poll.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/resource.h>
#include <sys/types.h>

#include "descriptors.h"
#include "frames.h"

struct session;

struct supervisor {
    int control;
    struct decoder decoder;
    struct descriptors received; /* with the frame being read */
    uint8_t *queue;              /* for the control channel, not yet sent */
    size_t queued, queue_room;
    bool queue_stuck;            /* it could not all be sent; else what waits in it is in no hurry */
    int wake[2];                 /* caught signals */
    pid_t shell;                 /* 0: not running */
    int shell_report;
    bool waits;                  /* for one call after the other */
    const char *unready;         /* why no shell can be started; NULL: one can */
    int unready_error;
    struct rlimit limit;         /* descriptors, as we were started */
    struct session *sessions;
    bool ending;
    bool kept; /* what the shell has left goes on; we end with the last of it */
    int inner, outer;   /* where the call's execs are asked about, and where we pass that on; -1: not by us */
    int waiting;        /* a stream that could not be passed on yet, or -1 */
    int64_t give_up;    /* when to stop trying that */
    int64_t rest_until; /* nothing is taken or passed on before that; 0: no rest */
    uint64_t answered, answered_told; /* requests that standing answers were given to */
};

/* Queues a frame for the server, to be sent with the next one. */
void queue_frame(struct supervisor *supervisor, const uint8_t *frame, size_t size);

/* Queues a frame for the server and sends what can be sent; never waits. */
void tell_server(struct supervisor *supervisor, const uint8_t *frame, size_t size);

/* Milliseconds of a clock that only goes forward. */
int64_t now_ms(void);

/* Reaps every child that has ended, stopped or continued, and tells whom it concerns. False when there are no children. */
bool reap_children(struct supervisor *supervisor);

/* A child that has reported why it could not become what it was to be is about to end: it never counts among those that had
 * to be ended. */
void reap_failed(pid_t child);

/* ---- sessions.c: escalated programs --------------------------------------------------------------------------- */

/* Takes over a SPAWN frame with its payload and descriptors. False: the server broke the protocol. */
bool session_spawn(struct supervisor *supervisor);

/* A REQUEST with the program's descriptor, and perhaps the directory's. */
struct request_received {
    int stream;
    uint8_t *payload; /* allocated; `request` points into it */
    struct request request;
    struct descriptors descriptors;
};

/* Takes over a request that a standing answer escalates, as a SPAWN of it. False: there is no memory, and nothing is taken. */
bool session_stands(struct supervisor *supervisor, const struct standing *says, struct request_received *received);
/* Whether one more may begin. */
bool sessions_may_begin(struct supervisor *supervisor);
bool session_changed(struct supervisor *supervisor, pid_t child, int status);
size_t sessions_count(const struct supervisor *supervisor);
size_t sessions_watch(struct supervisor *supervisor, struct pollfd *polled);
void sessions_serve(struct supervisor *supervisor, const struct pollfd *polled);
/* Milliseconds until the next deadline, or -1. */
int sessions_patience(const struct supervisor *supervisor);
/* Those without a process end here; the others when it is reaped. */
void sessions_abandon(struct supervisor *supervisor);

/* ---- standing_*.c: answers that the server gave in advance --------------------------------------------------- */

enum { STANDING_POLLED = 2 };

/* Stands between the shell and the server, and takes over `outer`. Returns the end that the shell is to have; -1 with errno
 * set. */
int standing_interpose(struct supervisor *supervisor, int outer);
/* Takes over a STANDING or HOLD frame. False: the server broke the protocol, or there is no memory. */
bool standing_add(struct supervisor *supervisor);
bool standing_hold(struct supervisor *supervisor);
/* Tells the server how many requests were answered, if it does not know. */
void standing_tell(struct supervisor *supervisor);
/* Answers nothing and passes nothing on any more, and forgets all answers. */
void standing_end(struct supervisor *supervisor);
void standing_watch(const struct supervisor *supervisor, struct pollfd polled[STANDING_POLLED]);
void standing_serve(struct supervisor *supervisor, const struct pollfd polled[STANDING_POLLED]);
/* Milliseconds until something is due, or -1. */
int standing_patience(const struct supervisor *supervisor);

/* ---- ending.c ------------------------------------------------------------------------------------------------- */

/* Whether the processes of this host can be listed. */
bool ending_prepare(void);
/* How many processes of the call there are; 0 only if there are none. */
uint32_t processes_left(struct supervisor *supervisor);
/* Kills and reaps all descendants; returns how many had to be killed. */
uint32_t end_everything(struct supervisor *supervisor);

/* ---- processes_*.c -------------------------------------------------------------------------------------------- */

#ifdef __linux__
/* Orphans become our children: without children there are no descendants, and SIGCHLD tells of the last one's end. */
#define PROCESSES_ADOPTED true
#else
#define PROCESSES_ADOPTED false
#endif

struct process {
    pid_t pid, parent, group;
    uint64_t started; /* tells it from a later one of the same number */
    bool ours;        /* certainly, whoever its parent is by now */
    bool ended;       /* not yet reaped */
    bool stopped;
};

bool processes_prepare(void);
/* Shows every process there is. */
void processes_visit(void (*each)(const struct process *process, void *context), void *context);
bool process_is_stopped(pid_t pid);
/* Whether the signal was sent: to that very process, not to one that has got its number since. */
bool process_signal(const struct process *process, int signal);

#endif
