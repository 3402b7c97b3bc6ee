/* The control group of a call (cgroups(7), version 2), where the server has found a place for one: the kernel ends all
 * that is in it at once, however fast it forks and whoever it runs as. Only what a call starts is in it, never we. */
#ifndef CODEX_GROUP_H
#define CODEX_GROUP_H

#include <stdbool.h>
#include <sys/types.h>

/* Makes it. False: there is none here, and the other functions do without. */
bool group_make(const char *path);

/* fork(2), the child in the group. */
pid_t group_fork(void);

/* As group_fork, but where it can be the child calls `become`, which does not return, in our own memory, and we wait until
 * it has exec'd or ended (vfork(2)): nothing is copied that the exec would throw away. It may change nothing that we use
 * later, and must do nothing that takes time. */
pid_t group_vfork(void (*become)(const void *what), const void *what);

/* Kills all members, after telling each of them. */
void group_kill(void (*each)(pid_t member));

/* Once nothing is left in it. */
void group_remove(void);

#endif
