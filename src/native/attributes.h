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

/* Whether what gets these, and the process's scheduling class, is no less urgent than we are. */
bool is_as_urgent(const struct attributes *attributes, pid_t process);

/* Takes over from the process what has no place in struct attributes: scheduling class, I/O priority, processors, and how
 * readily it is killed for want of memory. Nothing of this keeps a program from running, so what cannot be had is left. */
void adopt_standing(pid_t process);

/* For the parent of processes that take over from others: what they have of itself is known then. */
void adopt_prepare(void);

/* Whether our session has a controlling terminal and was started by the supervisor: only a process of the same session
 * can join our process group and so get the terminal's signals from the kernel. */
bool shares_terminal(void);

/* The name under which shares_terminal finds the supervisor; another as long as it waits for its call. */
void name_supervisor(bool waits);

#endif
