/* What of a process its exec'd program inherits besides descriptors: taken down by the client, put on by the child. */
#ifndef CODEX_ATTRIBUTES_H
#define CODEX_ATTRIBUTES_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "frames.h"

/* Everything but the signal mask, which the caller has changed already and hands in. */
void take_attributes(struct attributes *attributes, uint64_t blocked);

/* Each of these returns false with errno set. */
bool apply_nice(const struct attributes *attributes);
bool apply_limits(const struct attributes *attributes);

/* Takes over from the process what has no place in struct attributes: scheduling class, I/O priority, processors. Nothing
 * of this keeps a program from running, so what cannot be had is left. */
void adopt_standing(pid_t process);

/* How readily it is killed for want of memory: whether a child of ours is so as readily, and taking it over. That counts for
 * all who share their memory (__set_oom_adj in the kernel). */
bool has_our_oom_score(pid_t process);
void adopt_oom_score(pid_t process);

/* For the parent of processes that take over from others: what they have of itself is known then. */
void adopt_prepare(void);

/* Whether our session has a controlling terminal and was started by the supervisor: only a process of the same session
 * can join our process group and so get the terminal's signals from the kernel. */
bool shares_terminal(void);

/* The name under which shares_terminal finds the supervisor; another as long as it waits for its call. */
void name_supervisor(bool waits);

#endif
